"""Which frames make a pair, and what is said of those that make none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from semraft.data.files.pictures import write_image
from semraft.frames import FramePairs, frame_pairs


def listed(folder: Path, files: list[str]) -> FramePairs:
    """The pairs of a folder that holds these pictures; of each, the red of its number in `files`."""
    for number, name in enumerate(files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.full((8, 9, 3), number, dtype=np.uint8))
    return frame_pairs([folder])


def names(folder: Path, files: list[str]) -> list[str]:
    return [pair.name for pair in listed(folder, files).pairs]


def matched(folder: Path, files: list[str]) -> list[tuple[str, str]]:
    """Both files of each pair."""
    return [
        (files[int(pair.image1[0, 0, 0])], files[int(pair.image2[0, 0, 0])])
        for pair in listed(folder, files).pairs
    ]


def test_a_folder_is_taken_in_numerical_order(tmp_path: Path) -> None:
    """Red when sorted as text: frame10 would come before frame9."""
    files = ["frame10.png", "frame9.png", "frame8.png"]
    assert matched(tmp_path, files) == [("frame8.png", "frame9.png"), ("frame9.png", "frame10.png")]


SEQUENCES = {
    "KITTI": (
        ["000000_10.png", "000000_11.png", "000001_10.png", "000001_11.png", "000002_10.png"],
        [("000000_10.png", "000000_11.png"), ("000001_10.png", "000001_11.png")],
        ["000002_10.png"],
    ),
    "KITTI without second frames": (
        ["000000_10.png", "000001_10.png"],
        [],
        ["000000_10.png", "000001_10.png"],
    ),
    "KITTI multi-view": (
        ["000000_09.png", "000000_10.png", "000000_11.png", "000001_09.png", "000001_10.png"],
        [
            ("000000_09.png", "000000_10.png"),
            ("000000_10.png", "000000_11.png"),
            ("000001_09.png", "000001_10.png"),
        ],
        [],
    ),
    "FlyingChairs": (
        ["00001_img1.ppm", "00001_img2.ppm", "00002_img1.ppm"],
        [("00001_img1.ppm", "00001_img2.ppm")],
        ["00002_img1.ppm"],
    ),
    "Cityscapes": (
        [
            "aachen_000000_000018_leftImg8bit.png",
            "aachen_000000_000019_leftImg8bit.png",
            "bochum_000000_000020_leftImg8bit.png",
            "bochum_000000_000021_leftImg8bit.png",
        ],
        [
            ("aachen_000000_000018_leftImg8bit.png", "aachen_000000_000019_leftImg8bit.png"),
            ("bochum_000000_000020_leftImg8bit.png", "bochum_000000_000021_leftImg8bit.png"),
        ],
        [],
    ),
    "left and right": (
        ["0001_left.png", "0002_left.png", "0001_right.png", "0002_right.png"],
        [("0001_left.png", "0002_left.png"), ("0001_right.png", "0002_right.png")],
        [],
    ),
    "cameras after the frame": (
        ["0001_cam0.png", "0001_cam1.png", "0002_cam0.png", "0002_cam1.png"],
        [("0001_cam0.png", "0002_cam0.png"), ("0001_cam1.png", "0002_cam1.png")],
        [],
    ),
    "cameras of one moment": (["0001_cam0.png", "0001_cam1.png"], [], ["0001_cam0.png", "0001_cam1.png"]),
    "every fifth frame": (
        ["f05.png", "f10.png", "f15.png"],
        [("f05.png", "f10.png"), ("f10.png", "f15.png")],
        [],
    ),
    "a lost frame": (
        ["f1.png", "f2.png", "f3.png", "f5.png", "f6.png", "f8.png"],
        [("f1.png", "f2.png"), ("f2.png", "f3.png"), ("f5.png", "f6.png")],
        ["f8.png"],
    ),
    "time stamps": (
        ["1000003.png", "1000101.png", "1000207.png", "1000300.png"],
        [("1000003.png", "1000101.png"), ("1000101.png", "1000207.png"), ("1000207.png", "1000300.png")],
        [],
    ),
    "two pictures without a number": (["first.png", "second.jpg"], [("first.png", "second.jpg")], []),
    "a stereo pair": (["left.png", "right.png"], [], ["left.png", "right.png"]),
    "pictures without a number": (["a.png", "b.png", "c.png"], [], ["a.png", "b.png", "c.png"]),
    "folders of sequences": (
        ["a/1.png", "a/2.png", "b/3.png", "b/4.png", "c/1.png"],
        [("a/1.png", "a/2.png"), ("b/3.png", "b/4.png")],
        ["c/1.png"],
    ),
}


@pytest.mark.parametrize("layout", SEQUENCES)
def test_pairs_stay_inside_a_sequence(tmp_path: Path, layout: str) -> None:
    """Red when: pictures of two scenes, cameras or sides are paired, or a lone one is not named."""
    files, pairs, alone = SEQUENCES[layout]
    assert matched(tmp_path, files) == pairs
    found = listed(tmp_path, files)
    assert found.frames == len(files)
    assert found.count == len(pairs)
    assert [line.split(":")[0] for line in found.left_out] == alone


def test_files_of_one_stem_get_names_of_their_own(tmp_path: Path) -> None:
    """Red when two pairs would write one file."""
    assert names(tmp_path, ["f1.jpg", "f1.png", "f2.jpg", "f2.png"]) == ["f1_jpg", "f1_png"]


def test_pairs_of_folders_keep_the_folder_in_their_name(tmp_path: Path) -> None:
    assert names(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]) == ["a/1", "b/1"]


def test_truth_beside_the_frames_is_no_frame(tmp_path: Path) -> None:
    """Red when: label and flow pngs of a whole KITTI folder are taken for frames, or each is reported."""
    kinds = ("image_2", "image_3", "flow_occ", "semantic", "obj_map")
    files = [f"{kind}/000000_{number}.png" for kind in kinds for number in (10, 11)]
    found = listed(tmp_path, files)
    assert [pair.name for pair in found.pairs] == ["image_2/000000_10", "image_3/000000_10"]
    assert found.left_out == []


def test_own_outputs_and_hidden_files_are_no_frames(tmp_path: Path) -> None:
    """Red when: a second run takes the flow pictures of the first for frames, or `._f1.png` counts."""
    (tmp_path / "._f1.png").write_bytes(b"\0\5\026\7")
    outputs = ["f1_flow.png", "f1_kitti.png", "f1_labels.png", "f1_occlusion.png", "f1_sheet.png"]
    assert matched(tmp_path, ["f1.png", "f2.png", *outputs]) == [("f1.png", "f2.png")]


def test_a_damaged_picture_costs_its_pairs_and_is_named(tmp_path: Path) -> None:
    files = ["f1.png", "f2.png", "f3.png", "f4.png"]
    found = listed(tmp_path, files)
    (tmp_path / "f2.png").write_bytes((tmp_path / "f2.png").read_bytes()[:40])
    assert [pair.name for pair in found.pairs] == ["f3"]
    assert found.damaged == 1
    assert all(str(tmp_path / "f2.png") in line for line in found.left_out)


def test_frames_of_two_sizes_are_no_pair(tmp_path: Path) -> None:
    found = listed(tmp_path, ["f1.png", "f2.png"])
    write_image(tmp_path / "f2.png", np.zeros((8, 10, 3), dtype=np.uint8))
    assert list(found.pairs) == []
    assert "f1.png 8 x 9 and f2.png 8 x 10 px" in found.left_out[0]


def video_of(path: Path, levels: tuple[int, ...]) -> Path:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for level in levels:
        video.write(np.full((64, 96, 3), (0, 0, level), dtype=np.uint8))  # BGR: red.
    video.release()
    return path


def test_a_video_gives_its_consecutive_frames(tmp_path: Path) -> None:
    found = frame_pairs([video_of(tmp_path / "drive.avi", (40, 120, 200))])
    pairs = list(found.pairs)
    assert found.count == len(pairs) == 2
    assert [pair.name for pair in pairs] == ["drive_000000", "drive_000001"]
    assert np.abs(pairs[0].image2.mean((0, 1)) - (120, 0, 0)).max() < 4  # Red: RGB, not BGR.
    assert found.left_out == []


def test_frames_of_a_video_that_are_lost_are_said(tmp_path: Path) -> None:
    """A hole in the middle: frames on both sides of it are no pair. Red when: decoding stops at the hole."""
    path = video_of(tmp_path / "drive.avi", (10, 60, 110, 160, 210))
    data = path.read_bytes()
    starts = [at for at in range(len(data)) if data.startswith(b"\xff\xd8\xff", at)]
    assert len(starts) == 5
    broken = bytearray(data)
    broken[starts[2] : starts[3] - 8] = bytes(starts[3] - 8 - starts[2])
    path.write_bytes(broken)
    found = frame_pairs([path])
    assert [pair.name for pair in found.pairs] == ["drive_000000", "drive_000003"]
    assert found.frames == 5
    assert found.damaged == 1
    assert found.left_out == [f"{path}: 1 of 5 frames can't be decoded, from number 2 on"]


@pytest.mark.parametrize("inputs", [[], ["a.png"], ["a.png", "b.png", "c.png"], ["notes.txt"]])
def test_other_inputs_are_refused(tmp_path: Path, inputs: list[str]) -> None:
    for name in inputs:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="two images"):
        frame_pairs([tmp_path / name for name in inputs])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images"):
        frame_pairs([tmp_path])
