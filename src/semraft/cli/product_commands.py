"""Commands that hand networks and flow to other programs: `semraft convert` and others."""

import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from semraft.cli.options import require_writable


def convert(
    source: Positional[str],
    out: Positional[Path],
    /,
    layout: Literal["semraft", "princeton", "torchvision"] = "semraft",
) -> None:
    """Write weights in another layout or file format, and compare the flow of both.

    Args:
        source: A name that `semraft weights` lists, or a file: of semraft, public RAFT or torchvision, also
            as their trainings save it.
        out: The file to write: .pth, .pt or .safetensors.
        layout: The names of the tensors: of semraft, of the RAFT repository, or of torchvision.
    """
    require_writable(out)
    from semraft.products.conversion import convert_weights

    found = convert_weights(source, out, layout)
    if found.lost:
        print(f"! {found.lost}", file=sys.stderr)
    print(f"weights: {out} (flow on a made pair differs by {found.difference_px:.1g} px)")


def export(
    checkpoint: Positional[str],
    out: Positional[Path],
    /,
    format: Literal["onnx", "torch-export"] = "onnx",
    num_updates: int | None = None,
) -> None:
    """Write a network as a graph for programs without semraft, and compare its flow.

    Inputs image1 and image2: uint8 1 x H x W x 3, RGB, sides multiples of 8 from 64 on. Output flow:
    float32 1 x H x W x 2, in pixels.

    Args:
        checkpoint: A name that `semraft weights` lists, or a file: of semraft, public RAFT or torchvision.
        out: The file to write.
        format: ONNX (needs the extra `export`), or torch.export.
        num_updates: Refinements, which are fixed in the graph; those the weights were validated with, or 24,
            without it.
    """
    require_writable(out)
    from semraft import inference
    from semraft.products.network_export import export_network

    model = inference.load(checkpoint)
    updates = num_updates or model.validation_updates
    difference_px = export_network(model, out, format, updates)
    compared = "not compared: onnxruntime is not installed"
    if difference_px is not None:
        compared = f"flow on a made pair differs by {difference_px:.1g} px"
    print(f"network: {out} ({updates} refinements, {compared})")


def submit(
    benchmark: Positional[Literal["kitti", "sintel", "spring", "viper"]],
    root: Positional[Path],
    /,
    out: Path,
    weights: str = "",
    num_updates: int | None = None,
    device: str = "auto",
) -> None:
    """Write the flow of a benchmark's test frames in the files that its server takes.

    Goes on where it was interrupted.

    Args:
        benchmark: Whose server.
        root: The folder of its data, with the test frames.
        out: KITTI: a .zip file. Others: a folder, which the benchmark's own program packs.
        weights: A name that `semraft weights` lists, or a file: of semraft, public RAFT or torchvision.
        num_updates: Refinements; those the weights were validated with, or 24, without it.
        device: auto, cpu, cuda or cuda:N.
    """
    from semraft import inference, runtime
    from semraft.products.submission import PACKED_BY, write_submission

    if out.suffix:
        require_writable(out)
    model = inference.load(weights or None).to(runtime.choose_device(device))
    count = write_submission(benchmark, model, root, out, num_updates or model.validation_updates)
    print(f"submission: {out} ({count} files)")
    if packer := PACKED_BY[benchmark].format(out=out):
        print(f"pack it with the benchmark's own program: {packer}")


def view(folder: Positional[Path], /, port: int = 8000) -> None:
    """Show a run, a study or a folder of predictions in a browser, refreshed while it grows.

    Args:
        folder: Of a run, of a study, or with pictures.
        port: Port on 127.0.0.1, which other machines don't reach; 0 takes a free one.
    """
    from semraft.report.viewer import make_server

    with make_server(folder, port) as server:
        print(f"view: http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
        server.serve_forever()


def completion() -> None:
    """Print a script that completes commands and options in bash and zsh."""
    from semraft.cli.completion import completion_script
    from semraft.cli.main import COMMANDS

    print(completion_script(COMMANDS), end="")
