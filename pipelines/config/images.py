"""How images are decoded, and which are accepted: sections that several commands share."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from segray.pipelines.config.schema import Config, RunOnly, Shown, Text
from segray.pipelines.config.shared import ColumnConfig, Images, LinksConfig, Roots

if TYPE_CHECKING:  # its readers take time to import
    from segray.pipelines.io.images import ImageOptions

_Band = Annotated[int, Field(ge=1, le=1024)]
_Channel = Annotated[int, Field(ge=0, le=255)]
_Colour = Shown("R,G,B", "3 whole numbers from 0 to 255")


class PixelConfig(Config):
    """How the values of an image become 8-bit RGB."""

    range: Annotated[Text, Shown("RULE")] = "auto"
    """16-bit and float values to 8: full, minmax, percentile (1 to 99), LO,HI; auto: full or percentile."""
    bands: tuple[_Band, ...] | None = Field(default=None, min_length=1, max_length=3)
    """Bands for red, green and blue, or one for grey, from 1 on, such as 4,3,2; null: as the file says."""
    alpha: Literal["auto", "blend", "ignore"] = "auto"
    """Transparency: blend with the background, or ignore; auto: blend, except a TIFF's band that is data."""

    @field_validator("range")
    @classmethod
    def _range_is_known(cls, value: str) -> str:
        from segray.pipelines.io.pixel_values import parse_range

        parse_range(value)
        return value

    @field_validator("bands")
    @classmethod
    def _grey_or_rgb(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(value) == 2:
            raise ValueError("2 bands (allowed: one for grey, or three for red, green and blue)")
        return value

    def decoding(self) -> dict[str, Any]:
        """The keys that are fields of `ImageOptions`: how an image is decoded, not where it may be."""
        from segray.pipelines.io.images import ImageOptions

        return self.model_dump(include={option.name for option in fields(ImageOptions)} - {"roots"})


class ImageConfig(PixelConfig, ColumnConfig, LinksConfig):
    """Which images are accepted, and how they are decoded."""

    max_pixels: int = Field(default=100_000_000, ge=1, le=1 << 28)
    """An image with more pixels becomes an error row, from its header; decoding takes 7 to 25 bytes each."""
    max_side: int = Field(default=100_000, ge=1)
    """An image with a longer side, in pixels, becomes an error row; checked in the same way."""
    max_seconds: Annotated[float, Field(gt=0, le=86_400), RunOnly] = 30.0
    """An image that takes longer to decode becomes an error row."""
    min_size: int = Field(default=8, ge=1)
    """An image whose shorter side has fewer pixels becomes an error row."""
    frames: Literal["skip", "first"] = "skip"
    """Files with several frames (GIF, APNG, TIFF): skip them with a reason, or take the first frame."""
    background_color: Annotated[tuple[_Channel, _Channel, _Channel], _Colour] = (255, 255, 255)
    """Colour (red, green, blue) behind transparent pixels."""
    roots: Roots = ()
    """Folders or buckets whose files a manifest may name, besides those in its own folder."""

    def options(self, images: Images, jpeg_size: tuple[int, int] | None = None) -> ImageOptions:
        """How the images of a run are decoded, and where they may be.

        Args:
            images: their source, or several.
            jpeg_size: as in `ImageOptions`.
        """
        from segray.pipelines.io.images import ImageOptions
        from segray.pipelines.io.sources import follows_links, image_roots

        roots, follow = image_roots(images, self.roots), follows_links(images, self.follow_links)
        return ImageOptions(**self.decoding(), jpeg_size=jpeg_size, roots=roots, follow_links=follow)
