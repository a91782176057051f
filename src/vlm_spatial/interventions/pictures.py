"""Images of scenes that are about to be shown: read, and made into pixel values, before the model asks for them."""

from collections.abc import Iterable

from PIL import Image

from vlm_spatial.models.adapter import Adapter
from vlm_spatial.scenes.dataset import Dataset


def pictures(adapter: Adapter, dataset: Dataset, scene_ids: Iterable[str]) -> dict[str, Image.Image]:
    """The scenes' images, each read once; the adapter then knows their pixel values. May run in another thread.

    Raises:
        UserError: naming the file of an image that is missing or damaged.
    """
    found = {}
    for scene in dict.fromkeys(scene_ids):
        image = dataset.image(scene)
        # Shown several times: of a read-only image the key is worked out once (see image_key).
        image.readonly = 1
        adapter.cache.image(image)
        found[scene] = image
    return found
