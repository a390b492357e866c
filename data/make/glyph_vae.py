"""Trains the variational autoencoder of glyphs that is included as data/glyph_vae.keras.

    python data/make/glyph_vae.py            (about a minute on one core)

It is trained on the images of the training alphabets, without their labels, with a bound on the validation alphabets
printed after every fourth epoch. The file has the weights without the optimizer's state.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import meta_keras as mk  # noqa: E402

# isort: split
import keras  # noqa: E402
from keras import layers  # noqa: E402

LATENT, EPOCHS, BATCH, RATE = 16, 12, 256, 0.003


def main() -> None:
    keras.utils.set_random_seed(0)
    glyphs = mk.load("glyphs")
    x, validation = (glyphs.split(name).arrays(scaled=True)[0] for name in ("train", "validation"))
    pixels = [layers.Dense(128, activation="relu"), layers.Dense(784), layers.Reshape((28, 28, 1))]
    decoder = keras.Sequential([keras.Input((LATENT,)), *pixels], name="decoder")
    vae = mk.unsupervised.VAE(mk.networks.conv4(filters=32, downsample="stride"), decoder)
    steps = EPOCHS * -(-len(x) // BATCH)
    vae.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    for epoch in range(0, EPOCHS, 4):
        vae.fit(x, batch_size=BATCH, epochs=4, verbose=0)
        terms = vae.evaluate(validation, batch_size=256, verbose=0, return_dict=True)
        print(epoch + 4, {name: round(value, 1) for name, value in terms.items()}, flush=True)
    path = ROOT / "data" / "glyph_vae.keras"
    vae.save(path, include_optimizer=False)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
