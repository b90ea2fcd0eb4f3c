"""Images per second of the augmentation, beside kornia and torchvision's transforms image by image.

    ours          contrast.augment: parameters drawn per sample, every operation on the whole batch
    compiled      the same through torch.compile
    kornia        kornia.augmentation: per sample, on the whole batch
    torchvision   torchvision.transforms.v2, whose parameters are one per call: image by image

All start from the same uint8 batch on the device, end with float32 in [0, 1], and have the same operations and
probabilities; drawing the parameters is part of the time. One round before the clock starts warms up and compiles.

    python tools/bench_augment.py
    python tools/bench_augment.py --size 224 --batch-size 512 --augment blur=0.5,solarize=0.1 --device cuda --json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import measuring
import torch
from torch import Tensor, nn

from contrast.augment import AugmentConfig, augment, compile_operations, draw_augmentation, parse_augment
from contrast.devices import resolve_device
from contrast.pixels import SOLARIZE_THRESHOLD, blur_kernel_size
from shards.console import Count, format_table

PACKAGES = ("synthgen", "torch", "torchvision", "kornia")

Transform = Callable[[Tensor, int], Tensor]
"""uint8 [B, H, W, 3] and the number of the step to float32 [B, 3, H, W]."""


def ours(config: AugmentConfig, size: int, *, is_compiled: bool = False) -> Transform:
    """contrast.augment as the training loop calls it."""
    operations = compile_operations() if is_compiled else None

    def transform(pixels: Tensor, step: int) -> Tensor:
        draws = draw_augmentation(config, count=len(pixels), seed=0, step=step)
        return augment(pixels, draws.to(pixels.device), operations=operations)

    return transform


def kornia(config: AugmentConfig, size: int) -> Transform:
    """kornia.augmentation with the same operations, without those of probability zero."""
    import kornia.augmentation as library

    jitter = (config.brightness, config.contrast, config.saturation, config.hue)
    layers = [
        library.RandomResizedCrop((size, size), scale=config.crop_scale, ratio=config.crop_ratio),
        library.RandomHorizontalFlip(p=config.flip),
        library.ColorJitter(*jitter, p=config.jitter, order=[0, 1, 2, 3]),
        library.RandomGrayscale(p=config.gray),
    ]
    if config.blur > 0:
        kernel = (blur_kernel_size(size),) * 2
        layers.append(library.RandomGaussianBlur(kernel, config.blur_sigma, p=config.blur))
    if config.solarize > 0:
        thresholds = (SOLARIZE_THRESHOLD, SOLARIZE_THRESHOLD)
        layers.append(library.RandomSolarize(thresholds, (0.0, 0.0), p=config.solarize))
    stack = nn.Sequential(*layers)
    return lambda pixels, step: stack(pixels.permute(0, 3, 1, 2).float().div(255))


def torchvision(config: AugmentConfig, size: int) -> Transform:
    """torchvision.transforms.v2 on one image after the other, as a data loader's worker would."""
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    layers = [
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomResizedCrop(size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True),
        v2.RandomHorizontalFlip(config.flip),
        v2.RandomApply([jitter], config.jitter),
        v2.RandomGrayscale(config.gray),
    ]
    if config.blur > 0:
        blur = v2.GaussianBlur(blur_kernel_size(size), config.blur_sigma)
        layers.append(v2.RandomApply([blur], config.blur))
    if config.solarize > 0:
        layers.append(v2.RandomSolarize(SOLARIZE_THRESHOLD, config.solarize))
    compose = v2.Compose(layers)
    return lambda pixels, step: torch.stack([compose(image) for image in pixels.permute(0, 3, 1, 2)])


def time_images(transform: Transform, pixels: Tensor, *, seconds: float) -> float:
    """Images per second over as many batches as `seconds` take, one at least."""
    began, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - began < seconds:
        images = transform(pixels, steps)
        steps += 1
        if pixels.device.type == "cuda":
            torch.cuda.synchronize(pixels.device)
    assert images.shape == (len(pixels), 3, *pixels.shape[1:3]) and images.dtype == torch.float32, images.shape
    return steps * len(pixels) / (time.perf_counter() - began)


def run_benchmark(
    config: AugmentConfig, *, size: int, batch_size: int, device: torch.device, seconds: float, repeats: int
) -> dict[str, Any]:
    """Rates and ratios; what could not be measured is None, with a note."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    machine = measuring.describe_machine(PACKAGES, gpu=gpu)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, size, size, 3), dtype=torch.uint8, generator=generator).to(device)
    notes: dict[str, str] = {}
    contestants: dict[str, Callable[[], float]] = {}
    builders: dict[str, Callable[[], Transform]] = {
        "ours": lambda: ours(config, size),
        "compiled": lambda: ours(config, size, is_compiled=True),
        "kornia": lambda: kornia(config, size),
        "torchvision": lambda: torchvision(config, size),
    }
    with torch.inference_mode():
        for name, build in builders.items():
            try:
                transform = build()
                transform(pixels, 0)
            except ImportError as error:
                notes[name] = f"{error.name} is not installed: pip install -e '.[bench]' in the clone"
                continue
            contestants[name] = lambda transform=transform: time_images(transform, pixels, seconds=seconds)
        rates = measuring.measure_rounds(contestants, repeats=repeats, label="augmenting")
    return {
        **{
            f"ours_over_{name}": rates["ours"] / rates[name] if name in rates else None
            for name in ("kornia", "torchvision")
        },
        "compiled_over_ours": rates["compiled"] / rates["ours"],
        "images_per_second": {name: rates.get(name) for name in builders},
        "notes": notes,
        "size": size,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "augment": config.__dict__,
        "repeats": repeats,
        "machine": machine,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Program

main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@click.option("--size", type=Count(), default="32", show_default=True, help="Pixels, height and width.")
@click.option("--batch-size", type=Count(), default="256", show_default=True, help="Images of a batch.")
@click.option("--augment", "text", help="As in contrast train.  [default: SimCLR's for CIFAR-10]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, auto.")
@click.option("--threads", type=Count(), help="Threads of a CPU operation.  [default: torch's choice]")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Shortest time of a contestant's turn.")
@click.option("--repeats", type=Count(), default="5", show_default=True, help="Rounds; rates are their medians.")
@measuring.json_option
def measure(
    size: int,
    batch_size: int,
    text: str | None,
    device: str,
    threads: int | None,
    seconds: float,
    repeats: int,
    as_json: bool,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    result = run_benchmark(
        AugmentConfig() if text is None else parse_augment(text),
        size=size,
        batch_size=batch_size,
        device=resolve_device(device),
        seconds=seconds,
        repeats=repeats,
    )
    measuring.print_result(result, format_report(result), as_json=as_json)


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    rates = result["images_per_second"]
    rows = [(name, "-" if rate is None else measuring.format_rate(rate)) for name, rate in rates.items()]
    ratios = [
        f"{key.replace('_', ' ')} {'-' if result[key] is None else f'{result[key]:.2f}'}"
        for key in ("ours_over_kornia", "ours_over_torchvision", "compiled_over_ours")
    ]
    return [
        f"batches of {result['batch_size']} images, {result['size']} px, {result['device']}, "
        f"{result['threads']} threads",
        "",
        *format_table(("", "images/s"), rows),
        "",
        ", ".join(ratios),
        *(f"{name}: {note}" for name, note in result["notes"].items()),
        f"medians of {result['repeats']} rounds; {measuring.format_machine(result['machine'])[0]}",
        measuring.format_machine(result["machine"])[1],
    ]


if __name__ == "__main__":
    main()
