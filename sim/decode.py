"""The VAE that decodes latents to pixels, after sampling: what a GPU takes for it.

The decoder is that of Stable Diffusion's AutoencoderKL (which DiT and DiT-MoE use: 4 channels, 8 pixels to a latent),
layer by layer.  A convolution is timed as the product that it amounts to (pixels x 9 inputs x outputs), so as cuDNN's
implicit GEMM computes it; that it reaches what a product of that size reaches is assumed, and not measured here: expect
the truth to be longer, up to twofold.  It knows one image's decoder; it refuses to know other VAEs (a video's, say) and
schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sim.gpu import DTYPES, Gpu
from sim.shape import ModelShape

_CHANNELS = (512, 512, 256, 128)  # of the levels, from latent to pixels; the side doubles after each but the last
_BLOCKS = 3  # residual blocks a level
_LATENT, _COLOURS = 4, 3


class Convolution(NamedTuple):
    """`side` x `side` outputs of so many channels, from inputs of so many, with a kernel of `width` x `width`."""

    side: int
    inputs: int
    outputs: int
    width: int = 3

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.width**2 * self.inputs * self.outputs + self.outputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.side**2 * self.width**2 * self.inputs * self.outputs


class Norm(NamedTuple):
    """A group norm (and mostly a silu) of `side` x `side` x `channels`."""

    side: int
    channels: int


Layer = Convolution | Norm


def decoder(latent: int) -> list[Layer]:
    """The layers that decode one latent of this side, in order; attention's two products are left out (0.5 % of the
    multiply-accumulates at 256 pixels a side, 2 % at 512)."""
    top = _CHANNELS[0]
    layers: list[Layer] = [Convolution(latent, _LATENT, _LATENT, 1), Convolution(latent, _LATENT, top)]
    layers += [*_residual(latent, top, top), Norm(latent, top)]
    layers += [Convolution(latent, top, top, 1)] * 4  # of the one attention: q, k, v, projection
    layers += _residual(latent, top, top)
    side, inputs = latent, top
    for level, channels in enumerate(_CHANNELS):
        for _ in range(_BLOCKS):
            layers += _residual(side, inputs, channels)
            inputs = channels
        if level < len(_CHANNELS) - 1:
            side *= 2
            layers.append(Convolution(side, channels, channels))
    return [*layers, Norm(side, inputs), Convolution(side, inputs, _COLOURS)]


def _residual(side: int, inputs: int, outputs: int) -> Iterator[Layer]:
    yield Norm(side, inputs)
    yield Convolution(side, inputs, outputs)
    yield Norm(side, outputs)
    yield Convolution(side, outputs, outputs)
    if inputs != outputs:
        yield Convolution(side, inputs, outputs, 1)


def decode_s(model: ModelShape, gpu: Gpu, dtype: str = "tf32", images: int = 1) -> float:
    """Seconds in which `gpu` decodes `images` latents of `model` in one batch.

    tf32: DiT's samplers decode in fp32, whose convolutions PyTorch lets cuDNN compute so.

    Raises ValueError if the model's latents are not of this VAE, or the GPU lacks the dtype."""
    if model.channels != _LATENT or model.frames != 1:
        told = f"{model.channels} channels, {model.frames} frames"
        raise ValueError(f"model {model.name}: this VAE decodes {_LATENT} channels of one frame, not {told}")
    seconds = 0.0
    for layer in decoder(model.latent):
        pixels = images * layer.side**2
        if isinstance(layer, Norm):
            seconds += float(gpu.traffic_s(4.0 * pixels * layer.channels, 2, dtype))
        else:
            seconds += float(gpu.gemm_s(pixels, layer.outputs, layer.width**2 * layer.inputs, dtype))
    return seconds


def decode_bytes(model: ModelShape, dtype: str = "tf32", images: int = 1) -> float:
    """Bytes of the decoder's weights and of the largest tensors that it has at once: of a residual block in full size
    its input, what is normed, and the result (what a convolution's workspace takes is ignored)."""
    layers = decoder(model.latent)
    widest = max(layer.side**2 * layer.channels for layer in layers if isinstance(layer, Norm))
    weights = sum(layer.parameters if isinstance(layer, Convolution) else 2 * layer.channels for layer in layers)
    return float(DTYPES[dtype] * (weights + 3 * images * widest))
