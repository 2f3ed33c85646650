"""The device, and whether it computes at all."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from benchmarks.gpu_check.setting import Row, Setting, in_turn

from semraft import runtime

PACKAGES = ("torch", "torchvision", "triton", "localcorr", "numpy", "numba", "opencv-python-headless", "isal")


def measure(setting: Setting) -> Iterator[Row]:
    yield {"fact": "device", "value": name(setting)}
    if setting.is_cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        yield {"fact": "memory, GB (10^9 bytes)", "value": properties.total_memory / 1e9}
        yield {"fact": "multiprocessors", "value": properties.multi_processor_count}
        yield {"fact": "compute capability", "value": f"{properties.major}.{properties.minor}"}
        yield {"fact": "CUDA of torch", "value": torch.version.cuda}
        yield {"fact": "cuDNN", "value": torch.backends.cudnn.version()}
    yield {"fact": "processor cores", "value": len(os.sched_getaffinity(0))}
    yield {"fact": "Python", "value": platform.python_version()}
    for package in PACKAGES:
        yield {"fact": package, "value": found(package)}
    yield {
        "fact": "what a small network finds wrong with it",
        "value": runtime.misfit(setting.device) or "nothing",
    }
    yield from self_check(setting)


def name(setting: Setting) -> str:
    return torch.cuda.get_device_name(setting.device) if setting.is_cuda else str(setting.device)


def found(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def self_check(setting: Setting) -> Iterator[Row]:
    """A convolution, a product and their gradients against float64; the rates of copies and products.

    Raises:
        RuntimeError: The device is wrong by more than float32 rounds.
    """
    generator = torch.Generator().manual_seed(0)
    image, kernel = (
        torch.randn(2, 16, 24, 40, generator=generator),
        torch.randn(8, 16, 3, 3, generator=generator),
    )

    def results(dtype: torch.dtype, device: torch.device | str) -> list[torch.Tensor]:
        x, weight = (
            values.detach().to(device, dtype, copy=True).requires_grad_() for values in (image, kernel)
        )
        y = torch.nn.functional.conv2d(x, weight).flatten(2)
        gradients = torch.autograd.grad((y @ y.transpose(1, 2)).square().mean(), (x, weight))
        return [values.detach().cpu().double() for values in (y, *gradients)]

    pairs = zip(results(torch.float32, setting.device), results(torch.float64, "cpu"), strict=True)
    error = max(float((here - there).norm() / there.norm()) for here, there in pairs)
    yield {"fact": "relative error of a convolution, a product and gradients, float32", "value": error}
    if not error < 1e-4:
        raise RuntimeError(f"{setting.device} computes float32 with a relative error of {error:.1e}")
    if setting.is_cuda:
        source = torch.empty(2**31, dtype=torch.uint8, device=setting.device).random_()
        target = torch.empty_like(source)
        one, other = torch.randn(2, 8192, 8192, device=setting.device, dtype=torch.bfloat16).unbind()
        times = in_turn(
            {"copy": lambda: target.copy_(source), "product": lambda: one @ other}, setting, 5, at_once=10
        )
        yield {"fact": "copy, GB/s read and written", "value": 2 * source.numel() / times["copy"] / 1e9}
        yield {"fact": "bfloat16 product, TFLOP/s", "value": 2 * 8192**3 / times["product"] / 1e12}
