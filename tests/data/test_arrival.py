"""A picture is the same picture however it arrives: upright, same pixels, same digest, same identity of the sample."""

from __future__ import annotations

import io
import multiprocessing
import os
import struct
import unicodedata
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeds
import tiny
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

import vlm_neurons as vn
from vlm_neurons import _images
from vlm_neurons._images import Encoded, digest, read_image
from vlm_neurons.data import ImageTextData

# pictures that a test opened stay open until they are forgotten, as in a notebook
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
ORIENTATION = 0x0112
TEXT = "a red thing"


def turned(path: Path, orientation: int) -> np.ndarray:
    """A JPEG that is to be turned; what it looks like upright."""
    picture = tiny.image(24, 10)
    exif = picture.getexif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif)
    with Image.open(path) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))


def opened(path: Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def from_dataset(entry: Any, feature: Any) -> ImageTextData:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"image": [entry], "response": [TEXT]})
    return ImageTextData.from_dataset(made.cast_column("image", feature(datasets)))


def one(image: Any) -> ImageTextData:
    return ImageTextData.from_samples([{"image": image, "response": TEXT}])


def jsonl(path: Path) -> ImageTextData:
    file = path.parent / "d.jsonl"
    file.write_text(f'{{"image": "{path.name}", "response": "{TEXT}"}}')
    return ImageTextData.from_jsonl(file)


WAYS = {
    "path": one,
    "folder": lambda p: ImageTextData.from_folder(p.parent).with_responses([TEXT]),
    "JSONL": jsonl,
    "opened": lambda p: one(Image.open(p)),
    "opened and loaded": lambda p: one(opened(p)),
    "turned by the user": lambda p: one(ImageOps.exif_transpose(Image.open(p))),
    "read by us before": lambda p: one(read_image(p)),
    "opened from bytes": lambda p: one(Image.open(io.BytesIO(p.read_bytes()))),
    "bytes": lambda p: one(p.read_bytes()),
    "list of one": lambda p: one([Image.open(p)]),
    "dataset of bytes": lambda p: from_dataset({"bytes": p.read_bytes(), "path": "a.jpg"}, lambda d: d.Image()),
    "dataset of paths": lambda p: from_dataset(str(p), lambda d: d.Image()),
    "dataset of lists": lambda p: from_dataset([str(p)], lambda d: d.List(d.Image())),
}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_the_same_however_it_arrives(tmp_path: Path, way: str, orientation: int) -> None:
    upright = turned(tmp_path / "a.jpg", orientation)
    data, plain = WAYS[way](tmp_path / "a.jpg"), one(Image.fromarray(upright))
    (image,) = data[0].load_images()
    assert np.array_equal(np.asarray(image), upright)
    assert data.image_digests == plain.image_digests
    assert data.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("way", [name for name in WAYS if name not in ("turned by the user", "read by us before")])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_color_that_the_file_calls_transparent_is_white_however_it_arrives(
    tmp_path: Path, mode: str, way: str
) -> None:
    """PNG's tRNS names one color; PIL keeps it beside the pixels."""
    picture = Image.new("RGB", (4, 2), (255, 0, 0))
    picture.putpixel((3, 1), (0, 0, 255))
    picture = picture.convert(mode)
    name = picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png", transparency=name)
    (image,) = WAYS[way](tmp_path / "a.png")[0].load_images()
    right = np.full((2, 4, 3), 255, dtype=np.uint8)
    right[1, 3] = picture.convert("RGB").getpixel((3, 1))
    assert np.array_equal(np.asarray(image), right)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_pixels_of_a_converted_picture_are_shown_whatever_color_was_transparent_before(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    """PIL leaves the color of the transparent index beside the pixels: opaque ones may have it too."""
    picture = Image.new("P", (4, 1), 1)
    picture.putpalette([0, 0, 0, 0, 0, 0, 255, 0, 0])
    for x, index in enumerate((0, 1, 2, 1)):
        picture.putpixel((x, 0), index)
    picture.save(tmp_path / f"a.{suffix}", transparency=0)
    with Image.open(tmp_path / f"a.{suffix}") as opened_file:
        converted = opened_file.convert(mode)
    right = np.asarray(converted if mode == "RGB" else converted.convert("RGB"))
    assert np.array_equal(np.asarray(read_image(converted)), right)
    from_file = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    assert from_file[0].tolist() == [[255] * 3, [0] * 3, [255, 0, 0], [0] * 3]


@pytest.mark.parametrize("way", ["path", "opened", "opened and loaded", "bytes"])
def test_a_model_is_shown_the_same_picture_however_it_arrives(tmp_path: Path, way: str) -> None:
    upright = turned(tmp_path / "a.jpg", 6)
    path = tmp_path / "a.jpg"
    given = {"path": path, "opened": Image.open(path), "opened and loaded": opened(path), "bytes": path.read_bytes()}
    model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
    told = model.prepare(Image.fromarray(upright), "Hi").pixel_values
    assert model.prepare(given[way], "Hi").pixel_values.equal(told)
    evidence = vn.Evidence.from_arrays("x", images=[opened(path)], patch_acts=[np.ones((3, 1))])
    assert evidence.exemplars[0].seen.images[0].size == upright.shape[1::-1]
    assert evidence.exemplars[0].seen.boxes[0].max() == max(upright.shape[:2])


def large(path: Path, side: int = 900) -> np.ndarray:
    pixels = seeds.rng().integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize("kind", ["file", "bytes", "stream"])
def test_one_opened_picture_of_several_samples_is_read_by_several_threads_at_once(tmp_path: Path, kind: str) -> None:
    pixels = large(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    given = {"file": tmp_path / "a.png", "bytes": io.BytesIO(whole), "stream": io.BufferedReader(io.BytesIO(whole))}
    picture = Image.open(given[kind])
    data = ImageTextData.from_samples([{"image": picture, "response": str(i)} for i in range(8)])
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: np.asarray(data[i].load_images()[0]), range(8)))
    assert all(np.array_equal(one, pixels) for one in read)
    assert data.image_digests == [(digest(Image.fromarray(pixels)),)] * 8


def _share(picture: Image.Image, n: int, out: Any) -> None:
    out.put([digest(picture) for _ in range(n)])


def test_one_opened_picture_is_read_by_several_processes_at_once(tmp_path: Path) -> None:
    pixels = large(tmp_path / "a.png", 300)
    picture, context = Image.open(tmp_path / "a.png"), multiprocessing.get_context("fork")
    out = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        workers = [context.Process(target=_share, args=(picture, 20, out)) for _ in range(3)]
        for worker in workers:
            worker.start()
    found = [d for _ in workers for d in out.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert set(found) == {digest(Image.fromarray(pixels))}


def test_an_opened_picture_is_left_as_it_was_and_drafts_are_honoured(tmp_path: Path) -> None:
    tiny.image(256, 256).save(tmp_path / "a.jpg")
    picture = Image.open(tmp_path / "a.jpg")
    read_image(picture)
    assert picture.tile
    picture.draft("L", (32, 32))
    assert read_image(picture).size == picture.size != (256, 256)


def test_frames_of_an_animation_are_pictures_of_their_own(tmp_path: Path) -> None:
    colors = ["red", "blue"]
    first, second = (Image.new("RGB", (8, 8), c) for c in colors)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    picture = Image.open(tmp_path / "a.gif")
    picture.seek(1)
    assert [read_image(p).getpixel((0, 0)) for p in (tmp_path / "a.gif", picture)] == [(255, 0, 0), (0, 0, 255)]


def palette(*color: int) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, *color])
    return image


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (palette(255, 0, 0), palette(0, 255, 0), False),
        (palette(255, 0, 0), Image.new("RGB", (4, 4), (255, 0, 0)), True),
        (Image.new("L", (4, 4), 1), Image.new("1", (4, 4), 1), False),
        (Image.new("L", (4, 4), 255), Image.new("1", (4, 4), 1), True),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), Image.new("RGBA", (4, 4), (0, 0, 0, 255)), False),
        (Image.new("RGB", (4, 4), "white"), Image.new("RGBA", (4, 4), (255, 0, 0, 0)), True),
        (Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2)), False),
        (Image.new("HSV", (4, 4), (9, 200, 200)), Image.new("RGB", (4, 4), (9, 200, 200)), False),
    ],
)
def test_pictures_are_duplicates_where_they_look_the_same_not_where_their_bytes_are_the_same(
    a: Image.Image, b: Image.Image, same: bool
) -> None:
    data = ImageTextData.from_samples([{"image": image, "response": TEXT} for image in (a, b)])
    assert data.duplicates("") == ({1: 0} if same else {})
    shown = [np.asarray(sample.load_images()[0]) for sample in data]
    assert np.array_equal(*shown) is same


def test_what_is_transparent_is_what_the_image_processor_makes_of_it() -> None:
    """transformers 4 showed the colours that transparency hides; 5 lays pictures on white."""
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 120), (0, 0, 8, 4))
    stored = io.BytesIO()
    picture.quantize(4).save(stored, "PNG")
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
    for image in (picture, picture.convert("LA"), Image.open(stored)):
        own = np.asarray(processor([image], return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
        assert np.array_equal(np.asarray(read_image(image)), own), image.mode
        assert (own[6:] == 255).all()


def png16(path: Path, values: np.ndarray, depth: int | None) -> Path:
    """A grey PNG of 16 bits that says with sBIT how many count."""
    Image.fromarray(values.astype(np.uint16)).save(path)
    whole = path.read_bytes()
    if depth is not None:
        body = b"sBIT" + bytes([depth])
        chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
        path.write_bytes(whole[:33] + chunk + whole[33:])
    return path


@pytest.fixture
def said_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_images, "_told", set())


@pytest.mark.parametrize("depth", [10, 12, 14])
@pytest.mark.usefixtures("said_nothing")
def test_grey_of_ten_and_twelve_bits_is_as_bright_as_its_file_says(tmp_path: Path, depth: int) -> None:
    values = seeds.rng().integers(0, 2**depth, (9, 7))
    values[0, 0] = 2**depth - 1
    right = (values >> (depth - 8)).astype(np.uint8)
    low = png16(tmp_path / "low.png", values, depth)
    high = png16(tmp_path / "high.png", values << (16 - depth), depth)  # as PNG asks for
    tags = {281: 2**depth - 1}
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "low.tif", tiffinfo=tags)
    sources = [low, high, tmp_path / "low.tif", Image.open(low), low.read_bytes(), Encoded(low.read_bytes())]
    for source in sources:
        assert np.array_equal(np.asarray(read_image(source))[..., 0], right), source


@pytest.mark.usefixtures("said_nothing")
def test_sixteen_bits_that_are_nearly_black_are_told_once_where_the_file_does_not_say_its_depth(tmp_path: Path) -> None:
    values = seeds.rng().integers(0, 2**12, (9, 7))
    values[0, 0] = 2**12 - 1
    path = png16(tmp_path / "a.png", values, None)
    with pytest.warns(UserWarning, match=r"a\.png.*none above 4,095 of 65,535.*8 bit"):
        read_image(path)
    read_image(path)  # a second warning would be an error
    for fine in (np.zeros((3, 3)), np.full((3, 3), 60_000)):
        read_image(png16(tmp_path / "b.png", fine, None))


def test_colors_of_sixteen_bits_that_are_nearly_black_are_told_too(tmp_path: Path, said_nothing: None) -> None:
    scanlines = b"".join(b"\0" + np.full(12, 900, ">u2").tobytes() for _ in range(4))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(scanlines))]
    chunks = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in [*parts, (b"IEND", b"")]
    ]
    with pytest.warns(UserWarning, match="nearly black"):
        read_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_part_of_a_file_is_a_picture(tmp_path: Path) -> None:
    tiny.image().save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "both").write_bytes(b"before" + whole + b"after")
    assert digest(Encoded(file=tmp_path / "both", offset=6, size=len(whole))) == digest(whole)


@pytest.mark.parametrize("source", [b"", b"no picture", Encoded(b"GIF89a")])
def test_bytes_that_are_no_picture_are_a_broken_picture_with_a_lasting_message(source: Any) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(OSError, match="image of sample mine cannot be read") as caught:
            read_image(source, "image of sample mine")
        said.append(str(caught.value))
    assert said[0] == said[1] and "0x" not in said[0]


def test_samples_of_bytes_are_shown_on_one_screen() -> None:
    data = one(os.urandom(100_000))
    assert len(repr(data[0])) < 300
    with pytest.raises(ValueError, match="holds a ndarray") as caught:
        one(np.zeros((400, 400, 3), np.uint8))
    assert len(str(caught.value)) < 300


class Counted:
    """A dataset that counts how often each row is asked for."""

    column_names = ("image", "response")

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.asked = rows, Counter[int]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked[index] += 1
        return self.rows[index]


def test_a_scan_asks_for_every_row_of_a_dataset_twice_at_the_most_and_the_first_once_more(tmp_path: Path) -> None:
    processor = tiny.processor()
    model = vn.HookedVLM(tiny.llava(processor.tokenizer), processor)
    dataset = Counted([{"image": tiny.image(), "response": f"thing {i}"} for i in range(12)])
    vn.scan(model, ImageTextData.from_dataset(dataset), out=tmp_path / "run", batch_size=4, progress=False)
    assert dataset.asked == {0: 3, **dict.fromkeys(range(1, 12), 2)}


def test_a_file_name_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "été")
    folder.mkdir()
    tiny.image().save(folder / unicodedata.normalize("NFD", "café.png"))
    for form in ("NFC", "NFD"):
        assert read_image(tmp_path / unicodedata.normalize(form, "été/café.png")).mode == "RGB"
    with pytest.raises(OSError, match=r"thé\.png"):
        read_image(tmp_path / "été" / "thé.png")


def test_files_of_a_run_are_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        model = vn.HookedVLM.from_pretrained("tiny-llava-scenes")
        run = vn.scan(model, vn.scenes(3, seed=0), out=tmp_path / "run", progress=False)
        run.save(vn.classify(run))
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in run.path.rglob("*") if file.is_file()}
    assert "scan.safetensors" in modes and {*modes.values()} == {"0o640"}


def test_a_few_bytes_that_say_they_are_very_large_are_refused_before_they_are_decoded() -> None:
    for size in ((1, 2**16 + 1), (2**15, 2**12 + 1)):
        head = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
        parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
        chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
        with warnings.catch_warnings(), pytest.raises(OSError, match=r"pixels are more than are read: scale it down"):
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            read_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
