"""`segray picture-book`: write picture-book scenes with exact masks."""

from __future__ import annotations

from PIL import Image

from segray.models.label_space import PICTURE_BOOK
from segray.pipelines.config.commands.picture_book import PictureBookConfig
from segray.pipelines.errors import UserError
from segray.pipelines.io.label_png import encode_gray_png
from segray.pipelines.io.storage import local_path
from segray.pipelines.printing import echo
from segray.pipelines.scenes.picture_book import draw_scene


def run(config: PictureBookConfig) -> None:
    """Write the scenes: images/{train,val}, masks/{train,val} (PNG) and class_names.txt.

    Raises:
        UserError: `out` holds files already.
    """
    root = local_path(config.out)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"out={config.out} is not an empty folder; give a new one")
    n_val = round(config.n * config.val)
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(config.n):
        scene = draw_scene(config.seed, index, config.size)
        split = "train" if index < config.n - n_val else "val"
        name = f"{split}/scene-{index:06d}.png"
        Image.fromarray(scene.image).save(root / "images" / name)
        (root / "masks" / name).write_bytes(encode_gray_png(scene.mask))
    (root / "class_names.txt").write_text("\n".join(("background", *PICTURE_BOOK)) + "\n", encoding="ascii")
    echo(f"{config.n} scenes ({config.n - n_val} train, {n_val} val) of {config.size} px in {config.out}")
