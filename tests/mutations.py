"""Files that are altered at random, through every reader: `python -m tests.mutations --count 20000`.

A reader gives what its file holds, or a ValueError that names the file. Anything else is a failure: another
error, an array of another type or size, more than 5 s, more memory than 4 times the sound file's and 256 MB.
Alteration k of a reader is the same in every session; `--only NAME --first k --count 1` repeats one.
"""

import argparse
import io
import json
import random
import signal
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch

from semraft.analysis.runs import load_pair, load_run
from semraft.analysis.study_file import read_study
from semraft.config import RunConfig, load_config, to_json
from semraft.data.datasets.virtual_kitti import read_moving_tracks
from semraft.data.files import packed
from semraft.data.files.formats import read_flow, read_pfm, write_flow
from semraft.data.files.packed_arrays import PackedFile, to_bytes
from semraft.data.files.pictures import (
    read_colors,
    read_ids,
    read_image,
    read_mask,
    write_ids,
    write_image,
    write_palette,
)
from semraft.data.files.png import join_png, split_png
from semraft.diagnosis.record import read_record
from semraft.diagnosis.rollback import read_rollbacks
from semraft.models.raft import ARCHITECTURES
from semraft.models.weights import load_model
from semraft.sample import Window
from semraft.training.state import initial_state, load_checkpoint

LONGEST_S = 5.0
LARGEST_BYTES = 256 << 20
SIZE = (40, 56)
RNG = np.random.default_rng(0)
FLOW = RNG.normal(0, 5, (*SIZE, 2)).astype(np.float32)
IMAGE = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
IDS = IMAGE[..., 0] % 12
LEAVES = [
    None,
    -1,
    0,
    2.5,
    1e308,
    2**62,
    10**30,
    "",
    "x",
    "\ud800",
    "\0",
    "../..",
    [],
    {},
    [1],
    {"a": 1},
    True,
]
"""Values that take the place of others in JSON."""


class Target(NamedTuple):
    """A reader: how its sound file is written, how it is read, and whether the content is JSON."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    kind: str = "bytes"


def read_run(path: Path) -> object:
    """The run of a folder by both of its readers: reports and diagnosis."""
    return load_run(path.parent), read_record(path.parent)


def write_run(name: str) -> Callable[[Path], object]:
    """Writes a whole run directory; the file of this name is the one that is altered."""

    def write(path: Path) -> None:
        lines = [{"step": step, "split": "train", "epe": 1.5, "total_loss": 2.0} for step in (1, 2)]
        lines.append({"step": 2, "split": "world-val", "epe": 1.25})
        draw = {"ids": ["a", "b"], "fingerprint": "f", "trained_on": 0}
        data = {
            "train": [{"name": "world", "fingerprint": "f", "pairs": 3}],
            "validation": {"world-val": draw},
        }
        classes = [{"id": 0, "name": "road", "color": [1, 2, 3]}]
        cause = {"name": "spike", "first_step": 1, "evidence": "it rose"}
        contents: dict[str, Any] = {
            "config.json": to_json(RunConfig()),
            "environment.json": json.dumps({"data": data, "classes": classes, "warnings": ["w"]}),
            "verdict.json": json.dumps({"state": "worse", "first_step": 1, "causes": [cause]}),
            "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
            "pulse.jsonl": "".join(json.dumps({"step": step, "epe_px": 1.0}) + "\n" for step in (1, 2)),
            "health.jsonl": json.dumps({"step": 1, "share_pct_a": 3.0}) + "\n",
            "skipped.jsonl": json.dumps({"step": 1, "id": "a", "path": "p", "reason": "r"}) + "\n",
            "per_sample.csv": "split,id,scene,epe\nworld-val,a,s,1.5\nworld-val,b,s,2.5\n",
        }
        for other, text in contents.items():
            (path.parent / other).write_text(text)
        assert name in contents

    return write


def write_pair(path: Path) -> None:
    arrays = {"image1": IMAGE, "image2": IMAGE, "valid": IDS > 3, "labels1": IDS}
    np.savez_compressed(path, id=np.array("a"), flow=FLOW.astype("f2"), flow_gt=FLOW.astype("f2"), **arrays)


def write_pack_file(path: Path) -> None:
    path.write_bytes(to_bytes(SIZE, {"flow": FLOW, "valid": IDS > 3, "labels1": IDS}))


def write_manifest(path: Path) -> None:
    files = {role: [f"{role}.pack", 3] for role in packed.ROLES}
    pair = {"id": "a", "scene": "s", "files": files, "sizes": {"flow": 3}, "image1_sha256": "0"}
    split = {"dataset": "kitti", "sparse": True, "provides": ["labels1"], "problems": [], "pairs": [pair]}
    path.write_text(json.dumps({"format": 1, "images": "pixels", "splits": {"train": split}}))


def write_checkpoint(path: Path) -> None:
    config = RunConfig(model=RunConfig().model.__class__(arch="tiny"), precision="float32", device="cpu")
    initial_state(config, torch.device("cpu")).save(path, config)


def write_safetensors(path: Path) -> None:
    metadata = {"semraft": "1", "arch": "tiny", "validation_updates": "4"}
    safetensors.torch.save_file(ARCHITECTURES["tiny"]().state_dict(), path, metadata=metadata)


def write_study(path: Path) -> None:
    contents = {
        "name": "s",
        "base": "b",
        "protocol": {"optim.steps": 3},
        "variants": ["b", "c"],
        "seeds": [0, 1],
    }
    path.write_text(json.dumps(contents))


def write_rollbacks(path: Path) -> None:
    line = {"step": 1, "seen_at": 3, "first_step": 2, "cause": "spike", "evidence": "e"}
    path.write_text(json.dumps(line) + "\n")


def read_flow_of(encoding: Any) -> Callable[[Path], object]:
    """Flow, which must be as `read_flow` promises."""

    def read(path: Path) -> None:
        flow, valid = read_flow(path, encoding)
        assert (flow.dtype, valid.dtype, flow.shape) == (np.float32, np.bool_, (*valid.shape, 2))
        assert np.isfinite(flow).all()
        assert not flow[~valid].any()

    return read


BOX = "frame cameraID trackID isMoving\n0 0 1 True\n1 0 2 False\n"
WHOLE = Window(0, 0, *SIZE)
TARGETS = (
    Target("flow.flo", lambda path: write_flow(path, FLOW), read_flow_of(None)),
    Target("flow.pfm", lambda path: write_flow(path, FLOW), read_pfm),
    Target("flow.npz", lambda path: write_flow(path, FLOW), read_flow_of(None), "npz"),
    Target("flow.npy", lambda path: np.save(path, FLOW), read_flow_of(None)),
    Target("kitti.png", lambda path: write_flow(path, FLOW, None, "kitti"), read_flow_of("kitti"), "png"),
    Target("image.png", lambda path: write_image(path, IMAGE), read_image, "png"),
    Target("image.jpg", lambda path: write_image(path, IMAGE), read_image),
    Target("image.ppm", lambda path: write_image(path, IMAGE), read_image),
    Target("ids.png", lambda path: write_ids(path, IDS), read_ids, "png"),
    Target("palette.png", lambda path: write_palette(path, IDS, IMAGE[0, :12]), read_colors, "png"),
    Target("mask.png", lambda path: write_ids(path, IDS), read_mask, "png"),
    Target("pair.npz", write_pair, load_pair, "npz"),
    Target("flow.pack", write_pack_file, lambda path: PackedFile(path).read(WHOLE), "pack"),
    Target("manifest.json", write_manifest, lambda path: packed.index("kitti", path.parent, "train"), "json"),
    Target("bbox.txt", lambda path: path.write_text(BOX), lambda path: read_moving_tracks.__wrapped__(path)),
    Target("last.pt", write_checkpoint, load_checkpoint),
    Target("weights.pt", write_checkpoint, load_model),
    Target("weights.safetensors", write_safetensors, load_model),
    Target("study.json", write_study, lambda path: read_study(path.parent), "json"),
    Target("rollbacks.jsonl", write_rollbacks, lambda path: read_rollbacks(path.parent), "json"),
    Target("start.json", lambda path: path.write_text(to_json(RunConfig())), load_config, "json"),
    *(
        Target(name, write_run(name), read_run, "json" if "json" in name else "bytes")
        for name in ("config.json", "environment.json", "verdict.json", "metrics.jsonl", "pulse.jsonl")
    ),
    Target("per_sample.csv", write_run("per_sample.csv"), read_run),
    Target("skipped.jsonl", write_run("skipped.jsonl"), read_run, "json"),
)


def altered(content: bytes, kind: str, rng: random.Random) -> bytes:
    """The content with one alteration: of its bytes, or of what they mean, behind sound checksums."""
    if kind == "json" and rng.random() < 0.8:
        return altered_json(content, rng)
    if kind == "png" and rng.random() < 0.5:
        return altered_png(content, rng)
    if kind == "npz" and rng.random() < 0.6:
        return altered_npz(content, rng)
    if kind == "pack" and rng.random() < 0.6:
        length = int.from_bytes(content[15:19])
        text = altered_json(content[23 : 23 + length], rng)
        return b"".join(
            [content[:15], len(text).to_bytes(4), zlib.crc32(text).to_bytes(4), text, content[23 + length :]]
        )
    return altered_bytes(content, rng)


def altered_bytes(content: bytes, rng: random.Random) -> bytes:
    data, at = bytearray(content), rng.randrange(len(content))
    if rng.random() < 0.5:
        at = rng.randrange(min(96, len(content)))  # Headers decide most.
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            return bytes(data[:at])
        case 2:
            data[at : at + 4] = rng.choice([2**31 - 1, 2**32 - 1, 0, 65536, 0x7FC00000]).to_bytes(4, "little")
        case 3:
            del data[at : at + rng.choice([1, 5, 333])]
        case 4:
            data[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
        case _:
            data[at : at + 64] = rng.choice([b"\0", b"\xff"]) * len(data[at : at + 64])
    return bytes(data)


def altered_json(content: bytes, rng: random.Random) -> bytes:
    """One value of the tree, or of one line, is another, gone, or under another name."""
    lines = content.splitlines() if b"\n{" in content else [content]
    number = rng.randrange(len(lines))
    tree = {"": json.loads(lines[number])}
    parent, place = rng.choice(list(spots(tree)))
    if rng.random() < 0.2 and parent is not tree and isinstance(parent, dict):
        parent[f"{place}x"] = parent.pop(place)
    elif rng.random() < 0.2 and parent is not tree:
        del parent[place]
    else:
        parent[place] = rng.choice(LEAVES)
    lines[number] = json.dumps(tree[""]).encode() if rng.random() < 0.97 else b"[" * 100_000
    return b"\n".join(lines) + b"\n"


def spots(parent: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a tree: what holds it, and its name or number there."""
    for place in list(parent) if isinstance(parent, dict) else range(len(parent)):
        yield parent, place
        if isinstance(parent[place], dict | list):
            yield from spots(parent[place])


def altered_png(content: bytes, rng: random.Random) -> bytes:
    """A header or data that say something else, behind sound checksums."""
    chunks = split_png(Path("sound.png"), content)
    if rng.random() < 0.6:
        header = bytearray(chunks[0][1])
        at = rng.randrange(13)
        if at < 8:
            at = at // 4 * 4
            header[at : at + 4] = rng.choice([0, 1, 41, 57, 8192, 2**15, 2**31 - 1, 2**32 - 1]).to_bytes(4)
        else:
            header[at] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        chunks[0] = (b"IHDR", bytes(header))
    else:
        pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
        data = (b"IDAT", zlib.compress(altered_bytes(pixels, rng)))
        chunks = [*(chunk for chunk in chunks if chunk[0] not in (b"IDAT", b"IEND")), data, (b"IEND", b"")]
    return join_png(chunks)


def altered_npz(content: bytes, rng: random.Random) -> bytes:
    """An array of another type or shape, gone, or with another header."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    name = rng.choice(list(arrays))
    members = {}
    for other, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[other] = buffer.getvalue()
    buffer = io.BytesIO()
    match rng.randrange(5):
        case 0:
            del members[name]
        case 1:
            np.save(
                buffer,
                np.ones(rng.choice([(), (3,), (0, 0), (3, 5), (2, 3, 4)]), rng.choice(["f8", "i4", "c8"])),
            )
            members[name] = buffer.getvalue()
        case 2:
            np.save(buffer, np.array([{}, None], dtype=object), allow_pickle=True)
            members[name] = buffer.getvalue()
        case 3:
            shape = rng.choice([(2**20, 2**20), (2**62,), (-1, 5), (2**15, 2**15), "x", (1.5, 2)])
            text = repr({"descr": "<f2", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
            members[name] = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 999
        case _:
            members[name] = altered_bytes(members[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    ) as archive:
        for other, member in members.items():
            archive.writestr(f"{other}.npy", member)
    return buffer.getvalue()


def outcome(target: Target, path: Path) -> str:
    """`read`, `damaged` for one line that names the file or its folder, or what is wrong with another end."""
    try:
        target.read(path)
    except ValueError as error:  # DamagedFile, or what is asked for is not there.
        return "damaged" if str(path.parent) in str(error) else f"no file's name: {type(error)} {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def peak_bytes() -> int:
    """Most memory that this process has held since the counter was set back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


def measured(target: Target, path: Path) -> tuple[str, int]:
    """The outcome, and bytes of memory beyond those before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_bytes()
    return outcome(target, path), peak_bytes() - before


def stop(number: int, frame: object) -> None:
    raise TimeoutError(f"not done after {LONGEST_S:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="alterations over all readers")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="", help="name of one reader's file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, stop)
    targets = [target for target in TARGETS if asked.only in ("", target.name)]
    tally: dict[str, Counter[str]] = {target.name: Counter() for target in targets}
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for target in targets:
            path = Path(folder, target.name.replace(".", "-"), target.name)
            path.parent.mkdir()
            target.write(path)
            sound = path.read_bytes()
            found, valid_bytes = measured(target, path)
            assert found == "read", f"the sound {target.name}: {found}"
            for number in range(asked.first, asked.first + -(-asked.count // len(targets))):
                path.write_bytes(altered(sound, target.kind, random.Random(f"{target.name} {number}")))
                signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
                found, grown = measured(target, path)
                signal.setitimer(signal.ITIMER_REAL, 0)
                if grown > 4 * valid_bytes + LARGEST_BYTES:
                    found = f"{grown >> 20} MB of memory"
                tally[target.name][found if found in ("read", "damaged") else "FAILED"] += 1
                if found not in ("read", "damaged"):
                    failures.append(f"{target.name} {number}: {found}")
    for name, counts in tally.items():
        print(f"{name:20}", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print("\n".join(failures[:50]))
    print(f"{sum(map(Counter.total, tally.values()))} altered files, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
