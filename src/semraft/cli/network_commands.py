"""Commands of trained networks: `semraft evaluate`, `semraft predict`, `semraft weights`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from semraft.cli.options import Json, print_table, require_writable, require_writable_folder
from semraft.config import ShapesConfig, WorldConfig
from semraft.config.data import IdTable


def evaluate(
    checkpoints: Positional[tuple[str, ...]],
    /,
    dataset: str,
    root: str = "",
    split: Literal["train", "val"] = "val",
    pairs: int | None = None,
    num_updates: int | None = None,
    device: str = "auto",
    precision: Literal["as-validated", "auto", "float32", "bfloat16", "float16"] = "as-validated",
    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
    per_sample: Annotated[str, tyro.conf.arg(metavar="FILE")] = "",
    damaged: Literal["refuse", "skip"] = "refuse",
    missing: Literal["skip", "refuse"] = "skip",
    held_out: str = "",
    label_table: IdTable | None = None,
    size: tuple[int, int] | None = None,
    flow: Path | None = None,
) -> None:
    """Score checkpoints, or flow files that exist, on a data set.

    Args:
        checkpoints: semraft, public RAFT or torchvision weights; or zero, constant, farneback, dis.
        dataset: A name that `semraft datasets` lists.
        root: The data set's folder.
        split: Which part of it.
        pairs: Score a random draw of so many pairs, the same every time; all without it.
        num_updates: Refinements; those the checkpoint was validated with, or 24, without it.
        device: auto, cpu, cuda or cuda:N.
        precision: Arithmetic of the network; as-validated: what the checkpoint's run validated it in, if this
            device computes in that at speed, else float32, as for weights that are of no run.
        json: Write all metrics to this file; - is standard output.
        per_sample: Write one row a pair to this .csv file.
        damaged: A damaged pair stops the work, or is skipped, named and counted.
        missing: A file that a pair lacks costs that pair, or stops the work.
        held_out: Score the pairs that the data.split of a training held out: the same share, or file.
        label_table: The table of the ids in label files, if not the data set's own.
        flow: A folder of flow files named after the first frames: .flo, .pfm, .npy, .npz, KITTI's png.
        size: Height and width of the scenes of `world` or `shapes`, if not the data set's own.
    """
    from semraft.evaluation import evaluate_command
    from semraft.evaluation.evaluate import write_per_sample

    if not checkpoints and not flow:
        raise ValueError("give a checkpoint, one of zero, constant, farneback, dis, or --flow FOLDER")
    for path in (json, per_sample):
        if path not in ("", "-"):
            require_writable(Path(path))
    evaluations = evaluate_command.score(
        checkpoints,
        dataset,
        root=Path(root) if root else None,
        split=split,
        pairs=pairs,
        num_updates=num_updates,
        device=device,
        precision=precision,
        damaged=damaged,
        missing=missing,
        held_out=held_out,
        label_table=label_table,
        flow=flow,
        world=WorldConfig(size=size or WorldConfig().size),
        shapes=ShapesConfig(size=size or ShapesConfig().size),
    )
    if json != "-":
        print(evaluate_command.table(evaluations))
    if json:
        evaluate_command.write_json(json, evaluations)
    if per_sample:
        write_per_sample(Path(per_sample), evaluations)


def predict(
    inputs: Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    weights: str = "",
    num_updates: int | None = None,
    formats: tuple[Literal["flo", "kitti", "color", "sheet", "labels", "backward", "untrusted"], ...]
    | None = None,
    overlay: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mp4")] = None,
    frames: tuple[int, int] | None = None,
    every: int = 1,
    device: str = "auto",
    precision: Literal["as-validated", "auto", "float32", "bfloat16", "float16"] = "as-validated",
) -> int:
    """Flow for two images, a folder of frames, or a video; classes of each frame with --formats labels.

    Heads have outputs of their own: NAME_labels.png, NAME_occlusion.png. Frames that form no
    pair are named; the exit code is 1 if a frame was damaged or nothing was written.

    Args:
        inputs: Two images, one folder, or one video. In a folder the numbers in the file names give the
            order of the frames. A file of weights may stand first.
        out: The folder to write into; not needed with an overlay.
        weights: A name that `semraft weights` lists, or a file: of semraft, public RAFT or torchvision.
        num_updates: Refinements; those the weights were validated with, or 24, without it.
        formats: What to write: .flo, KITTI 16-bit png, colour picture, contact sheet (frames, flow, and where
            it can't be trusted; twice the work), labels (of both frames, by a decoder), backward flow (.flo),
            mask of untrusted pixels. The first four of a single pair, the first three of several.
        overlay: Of a video: write it with the flow over its frames, in one colour scale and at its frame
            rate; .mp4, .webm or .avi.
        frames: Of a video: numbers of the first and last frame, from 0 on.
        every: Of a video: use every so many frames; flow leads from one used frame to the next.
        device: auto, cpu, cuda or cuda:N.
        precision: Arithmetic of the network; as-validated: that of the weights' validation, if this device
            computes in that at speed, else float32.
    """
    from semraft import inference, prediction, runtime, shipped
    from semraft.frames import Cut, frame_pairs, spread_pairs
    from semraft.overlay import Overlay

    if out is None and overlay is None:
        raise ValueError("give --out DIR for files, or --overlay FILE.mp4 for a video")
    if every < 1:
        raise ValueError(f"--every is {every}: expected 1 or more")
    if overlay is not None:
        require_writable(overlay)
    if inputs and inputs[0].suffix in (".pt", ".pth", ".safetensors"):
        if weights:
            raise ValueError(f"two weights are named, {inputs[0]} and --weights {weights}: take one out")
        weights, inputs = str(inputs[0]), inputs[1:]
    where = runtime.choose_device(device)
    runtime.keep_freed_memory()
    first, last = frames or (0, None)
    cut = Cut(first, last, every)
    found = frame_pairs(inputs, cut)
    if overlay is not None and found.frames_per_s is None:
        raise ValueError("--overlay is for a video: of pictures take --out DIR")
    model = inference.load(weights or None).to(where)
    if said := shipped.warning(weights):
        print(f"! {said}", file=sys.stderr)
    if model.conditioning == "truth":
        raise ValueError(
            f"{weights}: the network is conditioned on true labels (--model.conditioning truth), and frames "
            "alone have none: score it with `semraft evaluate` on data that has them"
        )
    if formats and "labels" in formats and model.decoder is None:
        raise ValueError(
            "--formats labels needs a network with a decoder (--model.heads decoder in training)"
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        require_writable_folder(out)
    own = precision == "as-validated"
    chosen = inference.validated_precision(model) if own else runtime.choose_precision(precision, where)
    asked = formats or (("flo", "kitti", "color", "sheet") if found.count == 1 else ("flo", "kitti", "color"))
    updates = num_updates or model.validation_updates
    video = None
    if overlay is not None and found.frames_per_s is not None:
        scale_px = prediction.fastest_px(model, spread_pairs(inputs[0], cut, 5), updates, chosen)
        video = Overlay(overlay, found.frames_per_s, scale_px)
    written = prediction.predict_pairs(model, found, out, updates, chosen, asked if out else (), video)
    if video is not None:
        video.close()
        print(
            f"overlay: {overlay} ({found.frames_per_s:.5g} frames/s, full colour {video.fastest_px:.1f} px)"
        )
    for line in shortened(found.left_out):
        print(f"! {line}", file=sys.stderr)
    left_out = f", {len(found.left_out)} left out" if found.left_out else ""
    print(f"flow: {out or overlay} ({written} of {found.count} pairs, {found.frames} frames{left_out})")
    return 1 if found.damaged or not written else 0


def shortened(lines: Sequence[str], most: int = 10) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]


def weights(json: Json = False) -> None:
    """List the weights that come with semraft and the public files it reads."""
    from semraft.shipped import weights_table

    rows = weights_table()
    short = {
        name: f"RAFT {row['arch']}, {row['about']}; {'shipped' if row['shipped'] else row['source']}; "
        f"sha256 {row['sha256'][:8]}"
        for name, row in rows.items()
    }
    print_table(rows if json else short, json)
