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
