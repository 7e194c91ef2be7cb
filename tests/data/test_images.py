"""PNG, JPEG and the preparation: every value checked against a naive reference, every fault by its kind."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hilum.data import images
from hilum.data.images import content_box, decode, decode_file, preprocess
from hilum.errors import ImageError
from hilum.recipe import Preprocessing

RANDOM = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def fault_of(content: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(content)
    return caught.value.fault


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.array([[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in rgb.astype(float)])


def test_8_bit_png_keeps_its_values() -> None:
    x_HW = RANDOM.integers(0, 256, (7, 5), dtype=np.uint8)
    decoded = decode(encoded(Image.fromarray(x_HW), "PNG"))
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, x_HW)
    assert (decoded.modality, decoded.view) == (None, None)


@pytest.mark.parametrize(("most", "limit"), [(4095, 4095.0), (4096, 65535.0), (65535, 65535.0), (100, 4095.0)])
def test_16_bit_png_is_scaled_by_the_range_it_uses(most: int, limit: float) -> None:
    x_HW = np.array([[0, 1], [most // 2, most]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(x_HW), "PNG")).pixels
    assert pixels.dtype == np.float32
    assert np.allclose(pixels, x_HW / limit, atol=1e-7)


def test_16_bit_png_whose_writer_scaled_it_is_scaled_by_the_whole_range() -> None:
    x_HW = np.array([[0, 4000]], dtype=np.uint16)
    content = with_chunk(encoded(Image.fromarray(x_HW), "PNG"), b"sBIT", b"\x0c")
    assert np.allclose(decode(content).pixels, x_HW / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_becomes_grey_by_bt601(mode: str) -> None:
    rgb = RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(RANDOM.integers(0, 256, (6, 4), dtype=np.uint8)))  # dropped
    if mode == "P":
        image = image.quantize(24)
        rgb = np.asarray(image.convert("RGB"))
    assert np.abs(decode(encoded(image, "PNG")).pixels - luma(rgb)).max() <= 1


def test_transparent_palette_is_read_without_a_warning() -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)).quantize(8)
    grey = decode(encoded(image, "PNG")).pixels
    assert np.array_equal(decode(encoded(image, "PNG", transparency=bytes([0, 128, 255]))).pixels, grey)


def test_one_bit_and_grey_with_alpha() -> None:
    bits = RANDOM.integers(0, 2, (5, 9), dtype=np.uint8).astype(bool)
    assert np.array_equal(decode(encoded(Image.fromarray(bits), "PNG")).pixels, bits * 255)
    x_HW = RANDOM.integers(0, 256, (5, 9), dtype=np.uint8)
    image = Image.merge("LA", (Image.fromarray(x_HW), Image.new("L", (9, 5), 7)))
    assert np.array_equal(decode(encoded(image, "PNG")).pixels, x_HW)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_to_grey(mode: str) -> None:
    image = Image.new("L", (16, 8), 90)
    image.paste(200, (8, 0, 16, 8))
    pixels = decode(encoded(image.convert(mode), "JPEG", quality=95)).pixels
    assert pixels.shape == (8, 16)
    assert np.abs(pixels.astype(int) - np.asarray(image)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = np.zeros((24, 16), dtype=np.uint8)
    upright[:8, :8] = 250  # a bright corner, top left
    upright[:8, 8:] = 120
    to_stored = {  # EXIF 2.3: where row 0 and column 0 of the stored image lie in the upright one
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.T,
        6: lambda x: x.T[::-1],
        7: lambda x: x.T[::-1, ::-1],
        8: lambda x: x.T[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(to_stored[orientation](upright)))
    pixels = decode(encoded(stored, "JPEG", quality=100, exif=exif)).pixels
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_is_corrupt(kind: str, share: float) -> None:
    content = encoded(Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)), kind)
    assert fault_of(content[: int(len(content) * share)]) == "corrupt"


def test_one_flipped_bit_in_a_png_is_found() -> None:
    content = bytearray(encoded(Image.fromarray(RANDOM.integers(0, 256, (64, 64), dtype=np.uint8)), "PNG"))
    content[len(content) // 2] ^= 1
    assert fault_of(bytes(content)) == "corrupt"


def test_any_damage_is_an_image_error_and_never_another() -> None:
    random = np.random.default_rng(1)
    whole = [
        encoded(Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)), kind) for kind in ("PNG", "JPEG")
    ]
    damaged = 0
    for _ in range(400):
        content = bytearray(whole[int(random.integers(2))])
        for at in random.integers(2, len(content), 3):
            content[at] = int(random.integers(256))
        try:
            decode(bytes(content))
        except ImageError:
            damaged += 1
    assert damaged > 200


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "empty"),
        (b"hello, I am no image at all", "unsupported"),
        (b"\x89PNG\r\n\x1a\n", "corrupt"),
        (b"\xff\xd8\xff", "corrupt"),
        (encoded(Image.new("L", (4, 4)), "GIF"), "unsupported"),
        (encoded(Image.new("L", (4, 4)), "TIFF"), "unsupported"),
        (encoded(Image.new("L", (4, 4)), "BMP"), "unsupported"),
    ],
)
def test_what_is_not_an_image(content: bytes, fault: str) -> None:
    assert fault_of(content) == fault


def test_animated_png_is_refused() -> None:
    frames = [Image.new("L", (4, 4), grey) for grey in (0, 99)]
    assert fault_of(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])) == "refused"


def test_bomb_is_refused_by_its_header_alone() -> None:
    side = 8000  # 64 million pixels, 62 kB
    assert side**2 > images.MAX_PIXELS
    raw = zlib.compress(bytes((side + 1) * side), 9)
    png = images._PNG
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)), (b"IDAT", raw), (b"IEND", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    assert fault_of(png) == "too_large"
    jpeg = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    assert fault_of(bytes(jpeg)) == "too_large"


def test_files_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    x_HW = RANDOM.integers(0, 256, (7, 5), dtype=np.uint8)
    path = tmp_path / "image.jpeg"
    path.write_bytes(encoded(Image.fromarray(x_HW), "PNG"))
    assert np.array_equal(decode_file(path), x_HW)
    with pytest.raises(ImageError) as caught:
        decode_file(tmp_path / "absent.png")
    assert caught.value.fault == "empty"
    assert "absent" not in str(caught.value)  # names of files can name patients


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((10, 10), (0, 16, 0, 16)),
        ((20, 10), (0, 16, 4, 12)),
        ((10, 20), (4, 12, 0, 16)),
        ((1, 1000), (7, 8, 0, 16)),
        ((32, 14), (0, 16, 4, 11)),
    ],
)
def test_content_box(shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    rows, columns = content_box(shape, 16)
    assert (rows.start, rows.stop, columns.start, columns.stop) == box


def triangle_resize(x_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear by its definition: each target pixel is a triangle-weighted mean of the pixels it covers."""

    def along(x: np.ndarray, length: int) -> np.ndarray:
        scale = len(x) / length
        support = max(scale, 1.0)
        rows = []
        for i in range(length):
            centre = (i + 0.5) * scale
            weights = np.array([max(0.0, 1 - abs((j + 0.5 - centre) / support)) for j in range(len(x))])
            rows.append((weights / weights.sum()) @ x)
        return np.array(rows)

    return along(along(x_HW.astype(float), height).T, width).T


@pytest.mark.parametrize("shape", [(40, 40), (61, 33), (9, 30), (16, 16)])
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_preprocess_against_the_definition(shape: tuple[int, int], kind: str) -> None:
    x_HW = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    pixels = x_HW if kind == "uint8" else (x_HW / 255).astype(np.float32)
    square = preprocess(pixels, Preprocessing(size=16, pad_value=9))
    assert square.shape == (16, 16)
    assert square.dtype == np.uint8
    rows, columns = content_box(shape, 16)
    expected = triangle_resize(x_HW, rows.stop - rows.start, columns.stop - columns.start)
    assert np.abs(square[rows, columns] - expected).max() <= 1.01
    outside = np.ones((16, 16), dtype=bool)
    outside[rows, columns] = False
    assert (square[outside] == 9).all()


def test_preprocess_does_not_alias_or_change_its_input() -> None:
    x_HW = RANDOM.integers(0, 256, (16, 16), dtype=np.uint8)
    before = x_HW.copy()
    square = preprocess(x_HW, Preprocessing(size=16))
    square[:] = 0
    assert np.array_equal(x_HW, before)


@pytest.mark.parametrize("pixels", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)])
def test_preprocess_refuses_what_is_no_grey_image(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="grey image"):
        preprocess(pixels, Preprocessing(size=16))


def test_preprocess_refuses_values_that_are_not_finite() -> None:
    pixels = np.full((8, 8), np.nan, dtype=np.float32)
    with pytest.raises(ImageError, match="finite"):
        preprocess(pixels, Preprocessing(size=16))


def test_real_films_decode(real_data) -> None:
    paths = sorted((real_data("covid-chestxray-dataset") / "images").iterdir())[:40]
    for path in paths:
        pixels = decode_file(path)
        with Image.open(path) as image:
            assert np.array_equal(pixels, np.asarray(image.convert("L")))
