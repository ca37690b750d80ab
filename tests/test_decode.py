"""Decoding: the decoder is the published one, and its seconds and bytes follow from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.commands.mesh import decoding_bytes
from sim.decode import Convolution, Norm, decode_bytes, decode_s, decoder
from sim.gpu import Gpu
from sim.workload import MODELS

H100 = Gpu.load("h100_sxm")


def test_the_decoder_has_the_published_parameters() -> None:
    """49,490,179 of AutoencoderKL's decoder, and 20 of the 1 x 1 convolution before it."""
    found = sum(layer.parameters if isinstance(layer, Convolution) else 2 * layer.channels for layer in decoder(32))
    assert found == 49_490_179 + 20


def test_sides_double_until_a_latent_is_eight_pixels() -> None:
    layers = decoder(32)
    assert (layers[0].side, layers[-1].side) == (32, 256)
    assert [layer.side for layer in layers if isinstance(layer, Convolution) and layer.outputs == 3] == [256]
    times = [sum(each.macs for each in decoder(side) if isinstance(each, Convolution)) for side in (32, 64)]
    assert times[1] == 4 * times[0]


def test_a_batch_costs_no_more_than_its_images_and_larger_ones_cost_more() -> None:
    one, eight = decode_s(MODELS["XL"], H100), decode_s(MODELS["XL"], H100, images=8)
    assert one < eight <= 8 * one
    assert decode_s(replace(MODELS["XL"], latent=64), H100) > 2 * one
    assert decode_s(MODELS["XL"], H100, "bf16") < one < decode_s(MODELS["XL"], H100, "fp32")


def test_the_largest_tensors_are_those_of_full_size() -> None:
    widest = max(layer.side**2 * layer.channels for layer in decoder(32) if isinstance(layer, Norm))
    assert widest == 256 * 256 * 256, "the first block of full size still has the channels of the level before"
    weights = decode_bytes(MODELS["XL"], images=0)
    assert decode_bytes(MODELS["XL"]) - weights == 4 * 3 * widest
    assert decode_bytes(MODELS["XL"], "bf16") == decode_bytes(MODELS["XL"]) / 2


@pytest.mark.parametrize("changes", [{"channels": 16}, {"frames": 21}])
def test_latents_of_another_vae_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="this VAE decodes 4 channels of one frame, not"):
        decode_s(replace(MODELS["XL"], **changes), H100)


def test_the_memory_command_computes_what_decoding_takes() -> None:
    model = MODELS["XL"]
    assert decoding_bytes("vae", model, 4) == decode_bytes(model, images=4)
    assert decoding_bytes("3 GB", model, 4) == 3e9
    assert decoding_bytes(None, model, 4) == 0.0
    with pytest.raises(ValueError, match="vae_bytes"):
        decoding_bytes("a lot", model, 4)
