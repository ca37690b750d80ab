"""Kernels of one thread, as PTX that the driver compiles: no CUDA toolkit, compiler or header is needed.

(torch.cuda._compile_kernel needs CUDA_HOME, and passes whole numbers as 32 bits.)  The file knows the driver's calls;
it refuses to know what kernels do."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

Kernel = Callable[..., None]  # of pointers and unsigned numbers, 64 bits each; on the caller's current stream


def load_kernels(text: str, *names: str) -> tuple[Kernel, ...]:
    """Its entries with these names, for the current GPU.  Raises RuntimeError with the driver's words."""
    torch.cuda.current_stream().synchronize()  # the driver needs torch's context, which comes with the first call
    driver, module = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    _check(driver, driver.cuModuleLoadData(ctypes.byref(module), text.encode()))
    return tuple(_kernel(driver, module, name) for name in names)


def _kernel(driver: ctypes.CDLL, module: ctypes.c_void_p, name: str) -> Kernel:
    function = ctypes.c_void_p()
    _check(driver, driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))

    def launch(*arguments: int) -> None:
        values = [ctypes.c_uint64(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        _check(
            driver, driver.cuLaunchKernel(function, *[ctypes.c_uint(1)] * 6, ctypes.c_uint(0), stream, pointers, None)
        )

    return launch


def _check(driver: ctypes.CDLL, status: int) -> None:
    if status:
        words = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(words))
        raise RuntimeError(f"CUDA driver: {words.value.decode() if words.value else status}")
