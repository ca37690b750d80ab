"""How rows travel: cast to a smaller format, or scaled row by row, and back.

Pure functions.  All rows take the way there and back, those that stay at home too, so that results do not depend on
how many ranks there are.  The names are those of `sim.workload.WIRES`, which counts the bytes.

float64 to float16 are plain casts, whose errors are those of the format (float16: infinite above 65,504).  float8
(e4m3) and int8 divide a row by a float32 scale, so that its largest element becomes the format's largest; the scale
travels behind the row.  Errors, of the row's largest magnitude m: float8 an element x to max(|x| / 16, m / 2**18),
int8 to m / 254 (half a step), plus float32's rounding.  A scaled row with an infinity or a NaN arrives as NaN.

Suffixes: R rows, D elements of a row, X bytes of a row on the wire."""

from __future__ import annotations

import torch
from torch import Tensor

_PLAIN = {name: getattr(torch, name) for name in ("float64", "float32", "bfloat16", "float16")}
_SCALED = {"float8": (torch.float8_e4m3fn, 448.0), "int8": (torch.int8, 127.0)}  # and their largest values
_SCALE_BYTES = 4


def encode(rows_RD: Tensor, wire: str) -> Tensor:
    """What travels of rows [R, D]: [R, D] of another type, or [R, D + 4] bytes."""
    if wire in _PLAIN:
        return rows_RD.to(_PLAIN[wire])
    dtype, most = _SCALED[wire]
    wide_RD = rows_RD.to(torch.promote_types(rows_RD.dtype, torch.float32))
    largest_R1 = wide_RD.abs().amax(dim=1, keepdim=True)
    scale_R1 = (largest_R1 / most).float()
    scale_R1 = torch.where(largest_R1.isfinite(), scale_R1, torch.nan)
    divisor_R1 = torch.where(scale_R1 > 0, scale_R1, 1.0).to(wide_RD.dtype)  # nothing but zeros, or not finite
    within_RD = (wide_RD / divisor_R1).nan_to_num().clamp(-most, most)
    small_RD = (within_RD if dtype.is_floating_point else within_RD.round()).to(dtype)
    return torch.cat([small_RD.view(torch.uint8), scale_R1.flatten().view(torch.uint8).view(-1, _SCALE_BYTES)], dim=1)


def decode(sent_RX: Tensor, wire: str, dtype: torch.dtype) -> Tensor:
    """Rows [R, D] in `dtype`, of what `encode` made of them."""
    if wire in _PLAIN:
        return sent_RX.to(dtype)
    small_RD, scale_R4 = sent_RX[:, :-_SCALE_BYTES], sent_RX[:, -_SCALE_BYTES:]
    wide = torch.promote_types(dtype, torch.float32)
    scale_R1 = scale_R4.clone(memory_format=torch.contiguous_format).view(torch.float32).to(wide)  # aligned
    return (small_RD.contiguous().view(_SCALED[wire][0]).to(wide) * scale_R1).to(dtype)


def round_trip(rows_RD: Tensor, wire: str) -> Tensor:
    """Rows [R, D] as they arrive, in the type that they had."""
    return decode(encode(rows_RD, wire), wire, rows_RD.dtype)
