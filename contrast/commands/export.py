"""The command `contrast export`: the trained encoder as a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from contrast.commands.choices import EXPORT_FORMATS
from shards.console import echo_json, examples, json_option
from shards.quantities import format_bytes

FOLDER = click.Path(path_type=Path)


@click.command(
    epilog=examples(
        "contrast export runs/tour --format onnx --out encoder.onnx",
        "contrast export runs/resnet18 --format torchvision --out resnet18.pth",
    )
)
@click.argument("run", type=FOLDER)
@click.option("--format", required=True, type=click.Choice(EXPORT_FORMATS), help="Described above.")
@click.option("--out", required=True, type=FOLDER, help="File to write; its card goes beside it, with .json added.")
@json_option
def export(run: Path, format: str, out: Path, as_json: bool) -> None:
    """Write the encoder of RUN for another library.

    A card beside it says how to load it and scale its input; --json prints that card.

    torchvision: a state dict for torch.load; timm: the same as safetensors for timm.create_model; safetensors: of any
    encoder, for this package; onnx: of any encoder, for onnxruntime. The projection head is not exported.
    """
    import contrast

    exported = contrast.export(run=run, format=format, out=out)
    if as_json:
        echo_json(exported.to_json())
        return
    click.echo(
        f"{out}: {exported.encoder} after {exported.steps} steps, {exported.feature_dim} features, "
        f"{format_bytes(out.stat().st_size)}; {out}.json says how to load it"
    )
