"""A network by its shapes: DiT-MoE (its table is in `MODELS`), or any other diffusion transformer of experts.

It knows sizes; it refuses to know images, ranks and which tokens go where (sim/workload.py)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sim.faults import CLOSED


@dataclass(frozen=True)
class ModelShape:
    """A DiT-MoE: every block has attention and a mixture of experts (arXiv 2407.11633, feizc/DiT-MoE).

    A routed expert is SwiGLU of inner width mlp_ratio x hidden; the shared experts are one SwiGLU of inner width
    shared_experts x hidden.  Other networks of experts differ in what stands below `qk_norm`; as DiT-MoE has it, if not
    given."""

    name: str
    layers: int
    hidden: int
    heads: int
    experts: int
    top_k: int = 2
    shared_experts: int = 2
    mlp_ratio: int = 4
    patch: int = 2
    channels: int = 4
    classes: int = 1000
    latent: int = 32  # side of the latent image: 32 for 256 px, 64 for 512 px
    qk_norm: bool = False
    expert_width: int | None = None  # inner width of a routed expert (then mlp_ratio is not read)
    shared_width: int | None = None  # inner width of all shared experts together
    frames: int = 1  # of a video, in latent space
    text_tokens: int = 0  # of a prompt, which go through every layer beside the image's
    adaln: bool = True  # each block computes its modulation (else it adds a table to one of the whole network)
    learn_sigma: bool = True  # twice as many channels come out
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("shared_experts", "text_tokens") else 1
            given = "int" in str(field.type) and not (value is None and "None" in str(field.type))
            if given and (type(value) is not int or value < least):
                size = "from 0 up" if least == 0 else "above 0"
                raise ValueError(f"model {self.name}: {field.name}={value!r} should be a whole number {size}")
            if field.type == "bool" and type(value) is not bool:
                raise ValueError(f"model {self.name}: {field.name}={value!r} should be true or false")
        for what, whole, part in [("hidden", self.hidden, self.heads), ("latent", self.latent, self.patch)]:
            if whole % part:
                raise ValueError(f"model {self.name}: {what}={whole} is not divisible by {part}")
        if self.top_k > self.experts:
            raise ValueError(f"model {self.name}: top_k={self.top_k} of only {self.experts} experts")
        if self.shared_width and not self.shared_experts:
            raise ValueError(f"model {self.name}: shared_width={self.shared_width}, but shared_experts=0")

    @property
    def tokens(self) -> int:
        """Tokens of one image (or video), with its text."""
        return self.frames * (self.latent // self.patch) ** 2 + self.text_tokens

    @property
    def beyond_dit_moe(self) -> list[str]:
        """Settings that no DiT-MoE has: realrun/model.py, which is one, must refuse them."""
        plain = {each.name: each.default for each in fields(self)}
        names = ("expert_width", "shared_width", "frames", "text_tokens", "adaln", "learn_sigma")
        strange = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) != plain[name]]
        return strange + ([] if self.shared_experts else ["shared_experts=0"])

    @property
    def expert_inner(self) -> int:
        """Inner width of a routed expert."""
        return self.expert_width or self.mlp_ratio * self.hidden

    @property
    def shared_inner(self) -> int:
        """Inner width of the shared experts."""
        return self.shared_width or self.shared_experts * self.hidden

    @property
    def output_channels(self) -> int:
        """Channels that the final layer computes."""
        return (1 + self.learn_sigma) * self.channels


_DIT_MOE = [("S", 12, 384, 6, 8), ("S-16E", 12, 384, 6, 16), ("B", 12, 768, 12, 8), ("L", 24, 1024, 16, 8)]
_DIT_MOE += [("XL", 28, 1152, 16, 8), ("G", 40, 1408, 16, 16)]
MODELS = {
    "tiny": ModelShape("tiny", layers=4, hidden=256, heads=4, experts=8, classes=10, latent=16),  # for two cores
    "digits": ModelShape(  # of 8 x 8 pixels, without a VAE
        "digits", layers=6, hidden=64, heads=4, experts=8, mlp_ratio=2, channels=1, classes=10, latent=8
    ),
    **{
        name: ModelShape(name, layers, hidden, heads, experts, qk_norm=name in ("XL", "G"))
        for name, layers, hidden, heads, experts in _DIT_MOE
    },
}
