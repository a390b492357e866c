# %% [markdown]
# # Learning without labels
#
# **Goals.** After this chapter you can train four models on images alone (predicting rotations, a variational
# autoencoder, contrastive learning, and a generative adversarial network), construct few-shot tasks without labels, and
# measure what the features are worth for unseen classes.
#
# **Prerequisites.** Few-shot tasks and prototypes (chapter [01](01_learning_to_learn.ipynb)).
#
# **Time.** Two lectures of 90 minutes; the second begins with the GAN. The code runs in about 90 seconds on two CPU
# cores.
#
# ![A grid of images of clothes that change gradually between four garments in the corners](without_labels.png)
#
# *An autoencoder has reconstructed the four images in the corners, which it did not see in training. Between them, its
# latent variables are interpolated.*

# %%
import meta_keras as mk  # before TensorFlow, so that TensorFlow starts without log messages

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from keras import layers
from meta_keras.unsupervised import GAN, UMTRA, VAE, Contrastive, Rotation
from meta_keras.unsupervised import cluster_classes, density_and_coverage, few_shot_score, gan_losses

mk.report.style()
tf.get_logger().setLevel("ERROR")
stored = mk.report.measured("chapter_07")  # long measurements, made by benchmarks/chapter_07.py

# %% [markdown]
# ## Features from images alone
#
# Labels are expensive, and images are not. **Self-supervised learning** (自监督学习) therefore replaces the labels with
# something that can be computed from the images: a *pretext task*, which should require useful features. **Generative
# models** (生成模型) instead learn the distribution of the images.

# %% [markdown]
# To compare features we use one protocol. An encoder $f$ is pretrained on the 17,020 images of 16 alphabets of
# `glyphs`, synthetic handwriting, without labels. It is then frozen, and classifies images of six *other* alphabets in
# 5-way tasks with one or five labeled images per class: a query is assigned to the class with the nearest
# **prototype**, the mean feature of its support images $S_k$:
#
# $$\hat{y}(x) = \arg\min_k \Big\lVert f(x) - \frac{1}{|S_k|} \sum_{x' \in S_k} f(x') \Big\rVert \qquad \text{(Formula 7.1)}$$

# %% [markdown]
# Features of different networks have different scales. The argument `center` of `few_shot_score` therefore subtracts
# the mean feature of unlabeled images and divides each feature vector by its length, as in SimpleShot (Wang et al.,
# 2019). Whether this is done was selected on validation alphabets (with labels) for each row of the stored results,
# baselines included. The strongest cheap baseline, from chapter 01, needs no network: images cropped to their ink,
# resized, and blurred ("aligned pixels").

# %%
glyphs = mk.load("glyphs")
train, test = glyphs.split("train"), glyphs.split("test")
images = train.arrays(scaled=True)[0]  # without their labels


def encoder():
    return mk.networks.conv4(filters=32, downsample="stride")  # 28 x 28 pixels to 128 features


keras.utils.set_random_seed(0)
untrained = encoder()
features = {"raw pixels": lambda x: x.reshape(len(x), -1), "untrained": untrained.predict_on_batch}
for name, encode in features.items():
    print(f"{name}: {few_shot_score(encode, test, center=images[::4])}")

# %% [markdown]
# ## Predicting rotations
#
# Gidaris, Singh and Komodakis (2018) rotate every image by 0, 90, 180 and 270 degrees, and train a classifier to
# predict which of the four it was. To tell that a shoe is upside down, it helps to recognize soles and laces.

# %% alt="Twelve garments, and below each the same one rotated by the number of quarter turns that is its class"
fashion = mk.load("fashion")
clothes, clothes_labels = fashion.split("train").arrays(scaled=True)
new_clothes, new_labels = fashion.split("test").arrays(scaled=True)


def show(rows, captions=()):
    """Rows of images, by their names, and numbers above the images of each row."""
    count = len(next(iter(rows.values())))
    size = (0.75 * count, 0.9 * len(rows))
    fig, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for number, (line, (name, row)) in enumerate(zip(axes, rows.items(), strict=True)):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for column, (ax, image) in enumerate(zip(line, row, strict=True)):
            ax.imshow(np.squeeze(image), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if len(captions):
                ax.set_title(captions[number][column], fontsize=8)
    plt.show()


originals, turns = new_clothes[::42], np.arange(12) % 4
rotated = [np.rot90(image, turn) for image, turn in zip(originals, turns, strict=True)]
show({"image": originals, "rotated": rotated}, [[""] * 12, [f"class {turn}" for turn in turns]])

# %% [markdown]
# Let $T_r$ be a rotation by $r$ quarter turns, and $g$ a linear layer with four outputs, the logits. The loss is the
# mean cross-entropy, the negative log-probability of the right answer, over all rotations of $N$ images:
#
# $$L = \frac{1}{4N} \sum_{n=1}^{N} \sum_{r=0}^{3} -\log \operatorname{softmax}\big(g(f(T_r x_n))\big)_r \qquad \text{(Formula 7.2)}$$
#
# `Rotation` is a Keras model with this loss, and its `fit` takes images only:

# %%
keras.utils.set_random_seed(0)
rotation = Rotation(encoder())
rotation.compile(keras.optimizers.Adam(0.003))
history = rotation.fit(clothes, validation_data=new_clothes, batch_size=64, epochs=6, verbose=0)
print(f"rotation of new images: accuracy {history.history['val_accuracy'][-1]:.3f} (chance 0.25)")

# %% [markdown]
# The stored experiment has three seeds, and a decaying learning rate, selected on part of the training images:


# %%
turning = mk.report.measured("chapter_07_rotations")  # by benchmarks/chapter_07_rotations.py


def interval(values):
    mean, half = mk.report.mean_and_interval(values)
    return f"{mean:.3f} ± {half:.3f}"


def final(key, test):
    return [turning[f"{key}, seed {seed}"][test][-1] for seed in range(3)]


print(f"rotation of new images, 200 steps: {interval(final('clothes', 'test'))}")

# %% [markdown]
# ### Rotations of unseen characters
#
# Clothes are photographed upright. Characters can be harder: some look the same after a rotation, such as X, S or
# O (`rotation_similarity` measures this without labels), and what is upright is a convention, which unseen characters
# may or may not share with known ones.

# %% [markdown]
# The data set `hanzi` has 3,755 Chinese characters (汉字), printed in three typefaces. We train on 2,903 of them for one
# epoch, and test on 629 others:

# %% alt="Twelve unseen Chinese characters in three typefaces, rotated by quarter turns, each with the predicted and the true number of turns"
hanzi = mk.load("hanzi")
known, unseen = (hanzi.split(part).arrays(scaled=True)[0] for part in ("train", "test"))
keras.utils.set_random_seed(0)
rotation = Rotation(encoder())
rotation.compile(keras.optimizers.Adam(0.003))
rotation.fit(known, batch_size=64, verbose=0)
score = rotation.evaluate(unseen, batch_size=256, verbose=0, return_dict=True)
print(f"rotation of unseen characters: accuracy {score['accuracy']:.3f}")

pairs = zip(unseen[:1812:151], turns, strict=True)  # twelve, in all typefaces
rotated = np.stack([np.rot90(image, turn) for image, turn in pairs])
predicted = rotation.predict(rotated, verbose=0).argmax(axis=1)
captions = [f"{found} (is {turn})" for found, turn in zip(predicted, turns, strict=True)]
show({"rotated": rotated}, [captions])

# %% [markdown]
# The stored experiment varies the number of training characters, with three images of each, and compares `hanzi` with
# the letters of `glyphs`. The test letters belong to other alphabets than the training letters, and correlate at most
# 0.6 with their rotations. Networks were trained for 800 steps; nearest neighbors, by blurred pixels, use no network.
# Learning rates, blur and $k$ were selected on validation characters. Bands are intervals over three seeds, each with
# different training characters (unless all are used):

# %% alt="Accuracy of the rotation over the number of training characters: for unseen Chinese characters it rises from 0.63 to 0.98 with networks and a little less with nearest neighbors; for letters of unseen alphabets they stay between 0.25 and 0.4, and nearest neighbors are above networks"
markers = {"hanzi": ("-o", "--o"), "glyphs": ("-s", "--s")}
for source, counts in {"hanzi": (30, 100, 300, 1000, 2903), "glyphs": (30, 100, 300, 851)}.items():
    keys = [f"{source}, {count} characters" for count in counts]
    networks = [final(key, "unseen") for key in keys]
    neighbors = [
        [turning[f"nearest neighbors: {key}, seed {seed}"] for seed in range(3)] for key in keys
    ]
    for runs, name, style in zip(
        (networks, neighbors), ("network", "neighbors"), markers[source], strict=True
    ):
        mean, half = np.array([mk.report.mean_and_interval(run) for run in runs]).T
        plt.plot(counts, mean, style, label=f"{source}, {name}")
        plt.fill_between(counts, mean - half, mean + half, alpha=0.2)
plt.axhline(0.25, color="gray", lw=1, label="chance")
plt.xscale("log")
plt.xticks([30, 100, 300, 1000, 2903], ["30", "100", "300", "1,000", "2,903"])
plt.gca().set(xlabel="training characters", ylabel="accuracy for unseen characters", ylim=(0, 1))
plt.legend(loc="center right", bbox_to_anchor=(1, 0.6))
plt.show()

# %%
tests = [
    ("hanzi", "hanzi, unseen characters", "hanzi, 2903 characters", "unseen"),
    ("hanzi", "glyphs, unseen alphabets", "hanzi, 2903 characters", "letters"),
    ("glyphs", "glyphs, unseen alphabets", "glyphs, 851 characters", "unseen"),
    ("glyphs, 3,200 steps", "glyphs, unseen alphabets", "glyphs, all drawings", "unseen"),
    ("Omniglot, 3,200 steps", "Omniglot, unseen alphabets", "Omniglot, all drawings", "unseen"),
]
mk.report.Table(
    [
        {"trained on": source, "tested on": test, "accuracy": interval(final(key, part))}
        for source, test, key, part in tests
    ]
)

# %% [markdown]
# For unseen Chinese characters, networks are right in 98 % of the cases, and nearest neighbors in 95 %. That does not
# show that the characters are recognized: ridge regression on how often each of the 512 patterns of 3x3 pixels occurs,
# without their positions, is right in 90 %. (Known and unseen characters are printed in the same typefaces.)
#
# For letters of unseen alphabets, the accuracy is 33 % for networks and 37 % for nearest neighbors. The labels of
# `glyphs` even contradict each other, because some letters are rotations of other ones. For real handwriting (Omniglot,
# also at most 0.6), accuracy on unseen alphabets was 0.55 after 200 steps and 0.51 after 3,200; on training images it
# reached 0.81.

# %% [markdown]
# Do the features identify unseen characters? In 20-way 1-shot tasks of `hanzi`, with queries in other typefaces than
# the support image, accuracy is far above that of an untrained network ("random"), but below that of pixels:

# %%
kinds = ("aligned pixels", "raw pixels", "rotation", "random")
across = {kind: [turning[f"features: {kind}, seed {seed}"] for seed in range(3)] for kind in kinds}
mk.report.Table([{kind: interval(across[kind]) for kind in kinds}])

# %%
full = ("hanzi, 2903 characters", "glyphs, 851 characters")
shown = [np.mean(final(key, "unseen")) for key in full]
nearest = [[turning[f"nearest neighbors: {key}, seed {seed}"] for seed in range(3)] for key in full]
shown += [*np.mean(nearest, axis=1), turning["patches: hanzi"]]
runs = [turning[f"Omniglot, all drawings, seed {seed}"] for seed in range(3)]
curve, fitted = (np.mean([run[part] for run in runs], axis=0) for part in ("unseen", "training images"))
assert np.round(shown, 2).tolist() == [0.98, 0.33, 0.95, 0.37, 0.90]
assert np.round([curve[1], curve[-1], fitted[-1]], 2).tolist() == [0.55, 0.51, 0.81]
assert curve.argmax() == 1 and score["accuracy"] > 0.9
assert min(across["raw pixels"]) > max(across["rotation"]) > max(across["random"]) + 0.15

# %% [markdown]
# > **In the articles.** D4 (4.3) writes the loss as $L(x_n, y_n)$, without a model, and does not say that a rotation is
# > a label only where it changes the image (see the [errata](README.md#errata)).

# %% [markdown]
# ## Variational autoencoders
#
# An **autoencoder** encodes an image as a few numbers and decodes them again. A **variational autoencoder** (变分自编码器,
# VAE; Kingma and Welling, 2014) is a probabilistic version of it that can also generate images: it assumes that an
# image $x$ is generated from latent variables $z$ with the **prior** $N(0, I)$, by a decoder $p(x|z)$. The encoder
# outputs the mean $\mu$ and the variance $\sigma^2$ of a normal distribution $q(z|x)$, which approximates the posterior
# $p(z|x)$, the distribution of $z$ given the image.

# %% [markdown]
# The likelihood $p(x)$ is an integral over $z$ that cannot be computed, but it has a lower bound, the **evidence lower
# bound** (ELBO, 证据下界), which is maximized instead:
#
# $$\log p(x) \ge \mathbb{E}_{q(z|x)} \log p(x|z) - \mathrm{KL}\big(q(z|x) \,\|\, N(0, I)\big) \qquad \text{(Formula 7.3)}$$
#
# The first term rewards a good reconstruction. The second, the Kullback-Leibler divergence, keeps $q(z|x)$ near the
# prior, so that samples of the prior can be decoded. If the latent variables of $q$ are independent and normal, it is
#
# $$\mathrm{KL} = \tfrac{1}{2} \sum_j \big(\mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1\big) \qquad \text{(Formula 7.4)}$$

# %% [markdown]
# By definition, the divergence is the mean of $\log q(z|x) - \log p(z)$ over samples of $q$. A Monte Carlo estimate
# agrees with the formula:

# %%
mean, log_variance = np.array([[0.5, -1.0]]), np.array([[-1.0, 0.3]])
rng = np.random.default_rng(0)
z = mean + np.exp(log_variance / 2) * rng.normal(size=(100_000, 2))
log_q = -0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance).sum(axis=1)
sampled = np.mean(log_q + 0.5 * (z**2).sum(axis=1))
exact = float(mk.unsupervised.gaussian_kl(mean, log_variance)[0])
print(f"closed form {exact:.3f}, Monte Carlo estimate {sampled:.3f}")
assert abs(exact - sampled) < 0.02

# %% [markdown]
# The gradient of the first term must pass through the random $z$ to the encoder. This is possible because $z = \mu +
# \sigma \varepsilon$ with $\varepsilon \sim N(0, I)$, a differentiable function of $\mu$ and $\sigma$ (the
# *reparameterization trick*). `VAE` takes an encoder and a decoder, which outputs logits of pixels, and `fit` logs both
# terms:

# %%
keras.utils.set_random_seed(0)
pixels = [layers.Dense(256, activation="relu"), layers.Dense(784), layers.Reshape((28, 28, 1))]
vae = VAE(encoder(), keras.Sequential([keras.Input((16,)), *pixels]))
vae.compile(keras.optimizers.Adam(0.003))
history = vae.fit(clothes, validation_data=new_clothes, batch_size=64, epochs=20, verbose=0).history

# %% alt="Loss, reconstruction error and KL divergence of the VAE over epochs: the first two fall on training images and on new images, and the third settles"
fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
titles = {"loss": "loss", "reconstruction": "reconstruction", "kl": "KL divergence"}
for ax, (name, title) in zip(axes, titles.items(), strict=True):
    ax.plot(history[name], label="training images")
    ax.plot(history[f"val_{name}"], label="new images")
    ax.set(title=title, xlabel="epoch", ylabel="mean per image")
axes[0].legend()
plt.show()

# %% [markdown]
# The loss is the negative ELBO with the pixels' binary cross-entropy as reconstruction term: exact for binary images,
# but for gray values a common surrogate and not a log-likelihood. Can a classifier that was trained only on real
# images, with labels, recognize the reconstructions?

# %%
judge = mk.networks.d3(10)  # a small convolutional network
judge.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
judge.fit(clothes, clothes_labels, batch_size=64, epochs=8, verbose=0)
judged = {"images": new_clothes, "reconstructions": vae.reconstruct(new_clothes)}
judged["mean image"] = np.repeat(clothes.mean(axis=0, keepdims=True), len(new_clothes), axis=0)
right = {name: judge.evaluate(x, new_labels, verbose=0)[1] for name, x in judged.items()}
print("classified correctly:", {name: round(value, 3) for name, value in right.items()})

# %% alt="Twelve garments, their blurred reconstructions, and twelve blurred samples, of which some look like garments"
shown = {"image": originals, "reconstruction": vae.reconstruct(originals)}
shown["sample"] = vae.decode(np.random.default_rng(0).normal(size=(12, 16)))
show(shown)

# %% [markdown]
# In this run, the classifier recognizes fewer reconstructions than images, but far more than if every image were the
# mean image. Details such as laces and seams are blurred: the loss compares single pixels, and where several details
# are possible, their mean is the best answer. The *samples* in the last row are decoded from draws of the prior.

# %% [markdown]
# ### Looking into the latent space
#
# We encode four new images and decode points between their latent variables:

# %% picture="without_labels" jupyter={"outputs_hidden": true}
corners = vae.encode(new_clothes[[20, 160, 260, 460]])
a, b = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9))
weights = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], axis=-1)
between = vae.decode(weights.reshape(81, 4) @ corners).reshape(9, 9, 28, 28)
plt.figure(figsize=(5, 5))
plt.imshow(between.transpose(0, 2, 1, 3).reshape(252, 252), cmap="gray_r")
plt.axis("off")
plt.show()

# %% [markdown]
# A **latent traversal** changes a single latent variable. Here are the four with the largest divergence on average;
# variables with a divergence near zero are ignored by the decoder (*posterior collapse*).

# %% alt="Four rows of decoded images, each along one latent variable from -2.5 to 2.5: a shirt turns into trousers, fades, changes its outline, and loses its sleeves"
mu, log_variance = vae.posterior(new_clothes)
per_variable = 0.5 * np.mean(mu**2 + np.exp(log_variance) - log_variance - 1, axis=0)
rows = {}
for variable in np.argsort(-per_variable)[:4]:
    z = np.repeat(vae.encode(new_clothes[[160]]), 12, axis=0)
    z[:, variable] = np.linspace(-2.5, 2.5, 12)
    rows[f"$z_{{{variable}}}$"] = vae.decode(z)
show(rows, [[f"{value:.1f}" for value in np.linspace(-2.5, 2.5, 12)]] + [[""] * 12] * 3)

# %%
assert history["val_loss"][-1] < history["val_loss"][0] - 10  # the bound improves
assert right["images"] > right["reconstructions"] > right["mean image"] + 0.2

# %% [markdown]
# ## Contrastive learning
#
# A pretext task or a reconstruction pursues the goal only indirectly. **Contrastive learning** (对比学习) asks directly
# for what prototypes need: two drawings of one letter should have similar features, and drawings of other letters
# different ones. Without labels we do not know such pairs, but we can make them: SimCLR (Chen et al., 2020) applies two
# random augmentations to every image, and calls the results its **views**.

# %% alt="Twelve characters, each with two views that are shifted, resized, slanted and blurred at random"
blank = {"fill_mode": "constant"}
augment = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.RandomShear(0.2, 0.2, **blank),
        layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **blank),
        layers.RandomRotation(0.04, **blank),
        layers.RandomTranslation(0.1, 0.1, **blank),
    ]
)
drawings = images[::1430]
views = {f"view {number}": augment(drawings, training=True).numpy() for number in (1, 2)}
show({"image": drawings, **views})

# %% [markdown]
# The features of the $2n$ views of a batch are projected to vectors $z_i$ of length 1. Each view has to find its
# partner $p(i)$ among all others, which is a classification with $2n - 1$ classes and logits $z_i \cdot z_k / t$. A low
# temperature $t$ emphasizes the most similar views:
#
# $$L = \frac{1}{2n} \sum_{i=1}^{2n} -\log \frac{\exp(z_i \cdot z_{p(i)} / t)}{\sum_{k \ne i} \exp(z_i \cdot z_k / t)} \qquad \text{(Formula 7.5)}$$

# %%
keras.utils.set_random_seed(0)
contrastive = Contrastive(encoder(), augment, temperature=0.05)
contrastive.compile(keras.optimizers.Adam(0.003))
history = contrastive.fit(images, batch_size=128, steps_per_epoch=30, epochs=4, verbose=0).history
print("views that find their partner:", np.round(history["contrastive_accuracy"], 2))
print(few_shot_score(contrastive.encode, test, center=images[::4]))

# %% [markdown]
# A random guess finds the partner once in 255 attempts. The augmentation decides what the features ignore: here the
# size, slant and position of a drawing, which differ between drawings of one character as well. It must not change what
# matters; if rotations by any angle were included, 6 and 9 would have to have equal features.
#
# `encode` returns the features *before* the projection, which Chen et al. found to be better than $z$.

# %% [markdown]
# ## Generative adversarial networks
#
# A variational autoencoder compares images pixel by pixel, which blurs them. A **generative adversarial network** (GAN,
# 生成对抗网络; Goodfellow et al., 2014) learns the comparison, too: a **generator** (生成器) $G$ maps noise $z$ to
# images, and a **discriminator** (判别器) $D$ learns the probability that an image is real. Each is trained against the
# other:
#
# $$L_D = -\tfrac12 \big( \mathbb{E}_x [\log D(x)] + \mathbb{E}_z [\log(1 - D(G(z)))] \big) \qquad \text{(Formula 7.6)}$$
#
# $$L_G = -\mathbb{E}_z [\log D(G(z))] \qquad \text{(Formula 7.7)}$$

# %% [markdown]
# Let $D(x) = \frac34$ and $D(G(z)) = \frac14$. Then $L_D = -\frac12 (\log\frac34 + \log\frac34) = 0.288$
# and $L_G = -\log\frac14 = 1.386$. If $D$ cannot distinguish the images, $D = \frac12$ and both losses are
# $\log 2 = 0.693$. `gan_losses` takes **logits** $\ell$, where $D = \sigma(\ell) = 1 / (1 + e^{-\ell})$:

# %%
logit = np.float32(np.log(3))  # sigmoid(log 3) = 3 / 4
of_discriminator, of_generator = gan_losses(tf.constant([logit]), tf.constant([-logit]))
print(f"loss of D {of_discriminator:.3f}, loss of G {of_generator:.3f}")

# %% [markdown]
# Early in training, $D$ may recognize every generated image: $\ell$ is very negative. If $G$ maximized $L_D$, its
# second term would have almost no gradient, because $\log(1 - \sigma(\ell))$ is flat where $\ell$ is very negative. The
# **non-saturating** loss of Formula 7.7 has a gradient of almost $-1$ there.

# %% alt="Gradient for the generator over the logit of a generated image: where the discriminator is sure, that of the saturating loss vanishes and that of the non-saturating loss does not"
logits = tf.Variable(np.linspace(-8, 4, 100, dtype="float32"))
with tf.GradientTape(persistent=True) as tape:
    losses = {
        "non-saturating, -log D": -tf.math.log_sigmoid(logits),
        "saturating, log(1 - D)": tf.math.log_sigmoid(-logits),
        "without logarithms (as in D4), -D": -tf.sigmoid(logits),
    }
fig, ax = plt.subplots(figsize=(6, 2.6))
for name, loss in losses.items():
    ax.plot(logits.numpy(), tape.gradient(loss, logits), label=name)
ax.set(xlabel="logit of a generated image", ylabel="derivative w.r.t. logit")
ax.legend()
plt.show()

# %% [markdown]
# For a fixed generator with density $q$ and data with density $p$, the best discriminator is $D = p / (p + q)$. Where
# the two do not overlap it becomes arbitrarily steep, and training can oscillate or suffer from **mode collapse**
# (模式崩溃): $G$ makes only a few kinds of images. For convergence, Mescheder, Geiger and Nowozin (2018) add a penalty to
# $L_D$, called R1, on the gradient of the logit at real images:
#
# $$\frac{\gamma}{2} \, \mathbb{E}_x \big[ \lVert \nabla_x \, \ell(x) \rVert^2 \big] \qquad \text{(Formula 7.8)}$$
#
# `GAN` is a Keras model. The discriminator is a linear head on an encoder, and one optimizer updates both networks in
# every step. We train it briefly on clothes of 16x16 pixels:

# %%
small, small_test = (
    tf.image.resize(x, (16, 16), antialias=True).numpy() for x in (clothes, new_clothes)
)
keras.utils.set_random_seed(0)
discriminator = keras.Sequential([keras.Input((16, 16, 1))])
generator = keras.Sequential([keras.Input((32,)), layers.Dense(512), layers.Reshape((4, 4, 32))])
for filters in (32, 64):
    discriminator.add(layers.Conv2D(filters, 3, 2, padding="same"))
    discriminator.add(layers.LeakyReLU(0.2))
    generator.add(layers.Conv2DTranspose(32, 3, 2, padding="same", use_bias=False))
    generator.add(layers.BatchNormalization(momentum=0.9))
    generator.add(layers.ReLU())
discriminator.add(layers.Flatten())
generator.add(layers.Conv2D(1, 3, padding="same"))  # logits of the pixels

# %%
gan = GAN(discriminator, generator, penalty=1.0)
gan.compile(keras.optimizers.Adam(0.0005, beta_1=0.5), jit_compile=False)
history = gan.fit(small, batch_size=64, epochs=8, verbose=0).history
print({name: round(values[-1], 3) for name, values in history.items()})

# %% alt="Twelve real garments, and twelve generated images that are shapeless"
show({"real": small_test[::42], "generated": gan.sample(12, seed=0)})

# %% [markdown]
# ### Does it cover the data?
#
# After 256 steps these samples are poor. But even good-looking samples do not show what is missing. A classifier,
# trained with labels, assigns a class to every generated image; with $p_k$ as the fraction of class $k$, the
# **effective number of classes** is
#
# $$\exp\Big(-\sum_k p_k \log p_k\Big) \qquad \text{(Formula 7.9)}$$
#
# which is 10 if all ten classes are equally frequent, and 1 if there is only one.

# %% [markdown]
# The second measure also notices what is missing within a class (Naeem et al., 2020). Let $B_i$ be the ball around real
# image $x_i$ that reaches to its $k$-th nearest real neighbor, here $k = 5$. **Density** is the mean number of balls
# that contain a generated image, divided by $k$; it exceeds 1 if generated images crowd where real ones are dense.
# **Coverage** is the fraction of balls that contain any. For $N$ real images $x_i$ and $M$ generated $y_j$, with
# $[\cdot] = 1$ where true, otherwise $0$:
#
# $$\text{density} = \frac{1}{kM} \sum_{j=1}^{M} \sum_{i=1}^{N} [y_j \in B_i], \qquad
# \text{coverage} = \frac1N \sum_{i=1}^{N} \big[\text{some } y_j \in B_i\big] \qquad \text{(Formula 7.10)}$$

# %%
shown = {"real training images": small[::4], "generated": gan.sample(500, seed=0)}
shown["mean image of each class"] = np.repeat(
    [small[clothes_labels == k].mean(axis=0) for k in range(10)], 50, axis=0
)
for name, candidates in shown.items():
    density, coverage = density_and_coverage(small_test, candidates)
    print(f"{name}: density {density:.2f}, coverage {coverage:.2f} (in pixels)")

# %% [markdown]
# The briefly trained GAN covers little. The mean image of each class, a generator that has collapsed within every
# class, covers more, and a classifier counts ten classes (table below), so a count of classes alone does not reveal
# this collapse.
#
# The stored runs add a dense layer to the discriminator, train for 1,000 steps, and measure distances in the features
# of the classifier. Learning rate and penalty were selected by coverage on validation images. We call a run collapsed
# if a class has less than 1 % of the samples, or if its coverage is below half of that of real images:

# %%
gan_runs = mk.report.measured("chapter_07_gan")
names = ("GAN", "GAN without penalty", "normal distribution", "real images")
runs = {name: [gan_runs[key] for key in gan_runs if f"test: {name}," in key] for name in names}
half = np.mean([run["coverage"] for run in runs["real images"]]) / 2
table, collapses = [], {}
for name, group in runs.items():
    columns = {
        key: mk.Score.of([run[key] for run in group]) for key in ("classes", "density", "coverage")
    }
    collapsed = [run["smallest share"] < 0.01 or run["coverage"] < half for run in group]
    collapses[name] = f"{sum(collapsed)} of {len(group)}" if "GAN" in name else "–"
    table.append({"images": name, **columns, "collapsed": collapses[name]})
mean_image = {key: f"{gan_runs['test: mean image of each class'][key]:.3f}" for key in columns}
table.append({"images": "mean image of each class", **mean_image, "collapsed": "–"})
mk.report.Table(table)

# %% alt="Effective classes and coverage over training steps for five seeds: classes are close to ten from the beginning, and coverage rises to about 0.7, below that of real images"
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True, layout="constrained")
levels = {key: np.mean([run[key] for run in runs["real images"]]) for key in ("classes", "coverage")}
for ax, (key, level) in zip(axes, levels.items(), strict=True):
    curves = np.array([run["curve"][key] for run in runs["GAN"]])
    ax.plot(np.arange(250, 1001, 250), curves.T, "o-", color=mk.report.PALETTE[2], lw=1.2, ms=3)
    ax.axhline(level, color="0.45", lw=1, ls=(0, (2, 2)))
    ax.set(xlabel="training steps (dashed: real images)", ylabel=key, ylim=(0, None))
axes[0].set_ylabel("effective classes")
fig.suptitle("GAN with penalty, five seeds")
plt.show()

# %%
for penalty in (0, 0.1, 1, 10, 100):
    coverage = gan_runs[f"validation: rate 0.001, penalty {penalty:g}"]["coverage"]
    print(f"penalty {penalty:g}: validation coverage {coverage:.2f} after 500 steps (one seed)")

# %% [markdown]
# No test run collapsed, with or without the penalty (at least one validation run did). The selected penalty improves
# coverage by 0.0315 ± 0.0312 (paired over seeds); no significant difference in density was found. Both are below those
# of real images. A normal distribution with the mean and covariance of the training images does not differ
# significantly in the effective number of classes, but covers less than half as much.

# %%
with_penalty, without, normal = (
    {key: np.array([run[key] for run in runs[name]]) for key in columns} for name in names[:3]
)
assert collapses["GAN"] == collapses["GAN without penalty"] == "0 of 5"
assert gan_runs["validation: rate 0.002, penalty 0"]["smallest share"] < 0.01
gain = mk.Score.of(with_penalty["coverage"] - without["coverage"])
assert (f"{gain.mean:.4f}", f"{gain.interval:.4f}") == ("0.0315", "0.0312")
for one, other, key in ((with_penalty, without, "density"), (with_penalty, normal, "classes")):
    difference = mk.Score.of(one[key] - other[key])
    assert abs(difference.mean) < difference.interval
assert normal["coverage"].mean() < with_penalty["coverage"].mean() / 2

# %% [markdown]
# > **In the articles.** D4 ([section 4.4](README.md#from-the-documents-to-the-chapters)) prints
# > $-\frac12 (\mathbb{E}[D(x)] - \mathbb{E}[D(G(z))])$ as the loss of both networks. The logarithms and the $1 - D$ are
# > missing, it is not said who minimizes it, and $G(x) = z$ has the direction of the generator reversed. See the
# > [errata](README.md#errata).

# %% [markdown]
# ## Tasks without labels
#
# **Unsupervised meta-learning** (无监督元学习) in the strict sense meta-trains *on tasks*, which are constructed without
# labels.

# %% [markdown]
# **CACTUs** (Hsu, Levine and Finn, 2019) takes clusters of features as classes. **Clustering** (聚类) groups similar
# examples without labels, here by **k-means** (k均值聚类), which chooses centers $m$ with a small sum of squared
# distances:
#
# $$\sum_i \min_c \lVert f(x_i) - m_c \rVert^2 \qquad \text{(Formula 7.11)}$$

# %% alt="A task from clusters: the images of a class have similar amounts of ink, but often show different characters"
blurred = tf.nn.avg_pool2d(images, 4, 4, "SAME").numpy().reshape(len(images), -1)
clusters = cluster_classes(train.examples[::4], blurred[::4], clusters=200, seed=0).with_at_least(3)
print(clusters)
episode = next(iter(mk.FewShot(clusters, ways=4, shots=1, queries=2, seed=1)))
figure = mk.report.show_episode(episode)

# %% [markdown]
# A cluster may join different characters, or hold only some drawings of one. **UMTRA** (Khodadadeh, Bölöni and Shah,
# 2019) therefore does without clusters: $N$ random images are the $N$ classes of a task, and *augmented* versions of
# them are its queries. Two of the images may show the same character. With $C$ characters and $M$ drawings of each, all
# are different with the probability
#
# $$\prod_{i=1}^{N-1} \frac{(C - i) \, M}{C M - i} \qquad \text{(Formula 7.12)}$$

# %% alt="A task from augmentation: for each of five characters, one image as support, and two augmented versions of it as queries"
C, M = len(train), 20
for N in (5, 20, 40):
    print(f"{N} ways, all different: {np.prod([(C - i) * M / (C * M - i) for i in range(1, N)]):.3f}")
example = UMTRA(train.examples, {"query": augment}, ways=5, shots=1, queries=2)
figure = mk.report.show_episode(next(iter(example)))

# %% [markdown]
# Both are task distributions like `FewShot`, so a `MetaLearner` trains on them unchanged, here a prototypical network
# (Snell et al., 2017) with 20 ways and five queries per class:

# %%
keras.utils.set_random_seed(0)
pseudo_tasks = UMTRA(train.examples, {"query": augment}, ways=20, queries=5, meta_batch=1)
learner = mk.MetaLearner(network=encoder(), rule=mk.rules.Prototypes())
learner.compile(keras.optimizers.Adam(0.003), jit_compile=False)
learner.fit(pseudo_tasks, steps_per_epoch=100, verbose=0)
print(f"UMTRA, 100 steps: {few_shot_score(learner.network.predict_on_batch, test)}")

# %% [markdown]
# The stored comparison trains prototypical networks for 480 steps of 160 images on every kind of task. For each kind,
# the number of classes per task, of queries per class and of clusters, the augmentation and the learning rate were
# selected on validation alphabets after 150 steps, with one seed. CACTUs clusters the 64 leading principal components
# of aligned pixels. All are tested on tasks of five classes, 600 for each of three seeds:

# %%
task_runs = mk.report.measured("chapter_07_tasks")
by_tasks = {
    name: [task_runs[key] for key in task_runs if f"test: {name}," in key]
    for name in ("supervised", "CACTUs", "UMTRA")
}
accuracy = {name: np.array([run["1-shot"] for run in group]) for name, group in by_tasks.items()}
behind = {name: mk.Score.of(accuracy["supervised"] - values) for name, values in accuracy.items()}
rows = []
for name, values in accuracy.items():
    chosen = task_runs[f"selected: {name}"]
    row = {"tasks": name, "ways": chosen["ways"], "queries": chosen["queries"]}
    last = "–" if name == "supervised" else behind[name]
    rows.append({**row, "1-shot": mk.Score.of(values), "behind supervised": last})
mk.report.Table(rows)


# %% alt="Accuracy on unseen alphabets over meta-training steps: supervised tasks end above aligned pixels, CACTUs a little below, and UMTRA stays far below both"
def over_seeds(method, metric="1-shot"):
    return [found[metric] for key, found in stored.items() if key.startswith(f"test: {method}, ")]


fig, ax = plt.subplots(figsize=(6.5, 2.8))
for (name, group), marker in zip(by_tasks.items(), "osD", strict=True):
    curve = np.mean([run["curve"] for run in group], axis=0)
    ax.plot([160, 320, 480], curve, marker=marker, label=name)
for name, style in (("raw pixels", ":"), ("aligned pixels", "--")):
    ax.axhline(np.mean(over_seeds(name)), color="0.45", lw=1, ls=style, label=name)
ax.set(
    xlabel="meta-training steps (means of three seeds, 300 test tasks)",
    ylabel="5-way 1-shot accuracy\non unseen alphabets",
)
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
rises = {
    name: [run["curve"][-1] - run["curve"][-2] for run in group] for name, group in by_tasks.items()
}
print("step 480 minus step 320:", {name: interval(values) for name, values in rises.items()})
purity = np.mean([run["purity"] for run in by_tasks["CACTUs"]])
print(f"two images of a cluster show the same character: {purity:.2f}")

# %% [markdown]
# CACTUs is 0.080 ± 0.015 behind supervised tasks, although two images of one of its clusters show the same character in
# only 39 % of the cases. However, its clusters use the alignment as prior knowledge. UMTRA uses only its augmentation,
# and is 0.317 ± 0.013 behind. For supervised tasks and CACTUs, training *without* augmentation was selected.

# %% [markdown]
# After step 320, supervised tasks gain 0.015 ± 0.012 and CACTUs 0.021 ± 0.017, and no significant gain was found for
# UMTRA. But learning rates decay to zero at step 480, so longer training remains untested.

# %% [markdown]
# > **In the articles.** D4 ([section 3.3](README.md#from-the-documents-to-the-chapters)) calls self-supervised
# > learning, GANs and VAEs unsupervised *meta*-learning. They learn features or images, without adapting to any task.

# %% [markdown]
# ## What are the features worth?
#
# Finally, we compare all features in one protocol, with 600 test tasks for each of three seeds. Rotation, VAE and
# contrastive learning take 300 steps of 256 images, 76,800 in total, counting rotations and views separately; their
# augmentation, that of the views, was fixed and not selected. The features of a VAE are the means of its 32 latent
# variables. The prototypical networks are those of the previous section, trained on as many images and tested with one
# image per class only. New baselines are the leading principal components of raw pixels (16 were selected), and the 64
# of aligned pixels that CACTUs clusters.

# %%
names = ("raw pixels", "random", "VAE", "rotation", "contrastive", "aligned pixels")
names += ("principal components", "64 components of aligned pixels")
scores = {(name, k): mk.Score.of(over_seeds(name, f"{k}-shot")) for name in names for k in (1, 5)}
scores |= {(f"{name} tasks", 1): mk.Score.of(values) for name, values in accuracy.items()}
names = sorted({name for name, _ in scores}, key=lambda name: scores[name, 1].mean)
titles = [name.replace("random", "untrained") for name in names]
rows = [
    {"features": title, **{f"{k}-shot": scores.get((name, k), "–") for k in (1, 5)}}
    for name, title in zip(names, titles, strict=True)
]
mk.report.Table(rows)

# %% alt="Accuracy of eleven kinds of features and tasks with one and five images per class: supervised tasks and aligned pixels are highest, CACTUs follows, and rotation and raw pixels are near the bottom"
fig, ax = plt.subplots(figsize=(7, 3.4))
for shots, marker, color in ((1, "o", mk.report.PALETTE[0]), (5, "s", mk.report.PALETTE[1])):
    places = [place for place, name in enumerate(names) if (name, shots) in scores]
    means, widths = np.transpose([scores[names[place], shots][1:3] for place in places])
    ax.errorbar(means, places, xerr=widths, fmt=marker, color=color, label=f"{shots}-shot")
ax.set(xlim=(0.15, 1), xlabel="accuracy, 5-way, unseen alphabets")
ax.set_yticks(range(len(names)), titles)
ax.axvline(0.2, color="gray", lw=1)
ax.text(0.205, 0.3, "chance", rotation=90)
ax.legend(loc="lower right")
plt.show()

# %% [markdown]
# Differences of the 1-shot accuracies, paired over seeds (not corrected for the number of comparisons):

# %%
one_shot = {
    title: np.array(over_seeds(name))
    for name, title in zip(names, titles, strict=True)
    if (name, 5) in scores
}
one_shot |= {f"{name} tasks": values for name, values in accuracy.items()}
others = ("untrained", "raw pixels", "principal components", "contrastive", "aligned pixels")
rows = []
for name in ("rotation", "VAE", "UMTRA tasks", "CACTUs tasks", "contrastive", "supervised tasks"):
    gains = {f"minus {other}": mk.Score.of(one_shot[name] - one_shot[other]) for other in others}
    rows.append({"1-shot": name, **{k: "–" if name in k else gain for k, gain in gains.items()}})
mk.report.Table(rows)

# %%
for name in ("rotation", "VAE", "contrastive"):
    for other in ("raw pixels", "principal components"):
        gain = np.subtract(over_seeds(name, "5-shot"), over_seeds(other, "5-shot"))
        print(f"5-shot, {name} minus {other}: {interval(gain)}")

# %% [markdown]
# With one image per class, all features learned without labels are significantly better than those of an untrained
# network, and all but those of rotations are better than raw pixels. Principal components are a stronger baseline:
# rotation features are worse, for the VAE no significant difference was found, and contrastive learning, UMTRA and
# CACTUs are better. With five images, contrastive features beat principal components significantly; those of rotations
# and of the VAE do not.

# %% [markdown]
# UMTRA, whose augmentation was tuned, is 0.012 ± 0.011 better than contrastive learning, whose augmentation was not,
# and CACTUs is 0.249 ± 0.017 better. But the 64 components that CACTUs clusters reach 0.869 without any training of a
# network, and CACTUs is 0.043 ± 0.013 worse than aligned pixels. Only supervised tasks beat them, by 0.037 ± 0.027.
#
# All this holds for this strided encoder, these augmentations, at most 480 steps, and synthetic handwriting.

# %% [markdown]
# ## Summary
#
# - A pretext task computes its targets from the images. The accuracy of predicted rotations was 96 % for clothes, 98 %
#   for unseen Chinese characters (90 % with 3x3 patterns instead of a network), and 33 to 51 % for unseen alphabets.
# - A VAE maximizes a lower bound on the log-likelihood, a reconstruction term minus a KL divergence. Its latent space
#   can be interpolated, and a classifier recognizes many of its reconstructions.
# - Contrastive learning chooses by augmentation what features ignore. Its features were significantly better than
#   principal components of raw pixels; those of rotations and of the VAE were not.
# - A GAN needs measures of coverage, because samples do not show what is missing. With or without a gradient penalty,
#   no test run collapsed; the penalty improved coverage slightly.
# - Tasks can be constructed from clusters or augmented images, and any `MetaLearner` can be trained on them. With
#   clusters of aligned pixels, prototypical networks were 0.08 behind those from supervised tasks.
# - Compare with cheap baselines: aligned and blurred images beat every network trained without labels.

# %% [markdown]
# ## Exercises
#
# Exercises 1 to 4 have a checker ([solutions](../tests/solutions.py)): run its cell and pass it your function.

# %% [markdown]
# **1. Warm-up: the contrastive loss at chance.** If all projections are equal, every view is equally similar to every
# other one. Implement `chance_loss(images)`, the loss of Formula 7.5 for two views of that many images. Why does a
# larger batch make the task harder?


# %%
def check_chance_loss(chance_loss):
    for images in (2, 10, 128):
        equal = np.ones((2 * images, 1))
        expected = float(mk.unsupervised.contrastive_loss(equal, temperature=0.5))
        assert np.isclose(chance_loss(images), expected, atol=1e-4), (
            f"for {images} images it is {expected:.3f}"
        )
    print("Correct.")


# %% [markdown]
# **2. A tighter bound.** With several samples $z_1, \ldots, z_K$ of $q(z|x)$, the expected logarithm of the mean of
# $p(x|z_k)\, p(z_k) / q(z_k|x)$ is a bound at least as tight as the ELBO (Burda, Grosse and Salakhutdinov, 2016).
# Implement its estimate `importance_weighted(log_likelihoods, log_priors, log_posteriors)` for arrays of $K$
# logarithms, without overflow.


# %%
def check_importance_weighted(importance_weighted):
    rng = np.random.default_rng(0)
    logs = rng.normal(size=(3, 50))
    found = importance_weighted(*logs)
    assert np.isclose(found, np.log(np.mean(np.exp(logs[0] + logs[1] - logs[2])))), (
        "not the log of the mean ratio"
    )
    far = importance_weighted(logs[0] - 5000, logs[1], logs[2])
    assert np.isclose(far, found - 5000), "logarithms of -5,000 must not underflow"
    print("Correct.")


# %% [markdown]
# **3. The best discriminator.** For discrete images with probabilities `p` (real) and `q` (generated), implement
# `best_discriminator(p, q)`, which returns its probabilities and its loss (Formula 7.6).


# %%
def check_best_discriminator(best_discriminator):
    probabilities, loss = best_discriminator(np.array([0.8, 0.2]), np.array([0.4, 0.6]))
    assert np.allclose(probabilities, [2 / 3, 1 / 4]), "p / (p + q)"
    assert np.isclose(
        loss, 0.5 * (0.8 * np.log(1.5) + 0.2 * np.log(4) + 0.4 * np.log(3) + 0.6 * np.log(4 / 3))
    )
    assert np.isclose(best_discriminator(np.ones(4) / 4, np.ones(4) / 4)[1], np.log(2)), (
        "nothing to distinguish"
    )
    print("Correct.")


# %% [markdown]
# **4. How many tasks have wrong labels?** Implement `all_different(counts, ways)`, the probability that `ways`
# random images have different classes, if class $i$ has `counts[i]` images. Unlike in Formula 7.12, classes may differ
# in size. (Hint: how many sets of `ways` images have different classes? Multiply out $\prod_i (1 + c_i t)$.)


# %%
def check_all_different(all_different):
    assert np.isclose(all_different([20] * 851, 5), 0.98888, atol=1e-4), "Formula 7.12"
    assert np.isclose(all_different([3, 1], 2), 0.5), "three of six pairs are of different classes"
    assert np.isclose(all_different([1] * 6, 4), 1), "one image per class"
    assert np.isclose(all_different([5, 5], 3), 0), "three images, two classes"
    print("Correct.")


# %% [markdown]
# **5. Project: what do the views ignore?** Choose the augmentation of `Contrastive` for Fashion-MNIST or your own
# images. Test at least three augmentations, one of which you expect to harm, for example horizontal flips of letters.
# State a hypothesis first. A good report (a) selects temperature and learning rate for each augmentation on validation
# classes, (b) uses at least three seeds with intervals, (c) includes raw pixels, an untrained network and a supervised
# classifier, (d) tests classes that were not in the pretraining images, and (e) claims no more than the intervals.

# %% [markdown]
# ## References
#
# - S. Gidaris, P. Singh, N. Komodakis, [Unsupervised Representation Learning by Predicting Image
#   Rotations](https://arxiv.org/abs/1803.07728), 2018.
# - D. Kingma, M. Welling, [Auto-Encoding Variational Bayes](https://arxiv.org/abs/1312.6114), 2014.
# - Y. Burda, R. Grosse, R. Salakhutdinov, [Importance Weighted Autoencoders](https://arxiv.org/abs/1509.00519), 2016.
# - T. Chen, S. Kornblith, M. Norouzi, G. Hinton, [A Simple Framework for Contrastive Learning of Visual
#   Representations](https://arxiv.org/abs/2002.05709), 2020.
# - J. Snell, K. Swersky, R. Zemel, [Prototypical Networks for Few-shot Learning](https://arxiv.org/abs/1703.05175),
#   2017.
# - Y. Wang et al., [SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot
#   Learning](https://arxiv.org/abs/1911.04623), 2019.
# - I. Goodfellow et al., [Generative Adversarial Networks](https://arxiv.org/abs/1406.2661), 2014.
# - L. Mescheder, A. Geiger, S. Nowozin, [Which Training Methods for GANs do actually
#   Converge?](https://arxiv.org/abs/1801.04406), 2018.
# - M. Naeem et al., [Reliable Fidelity and Diversity Metrics for Generative Models](https://arxiv.org/abs/2002.09797),
#   2020.
# - K. Hsu, S. Levine, C. Finn, [Unsupervised Learning via Meta-Learning](https://arxiv.org/abs/1810.02334), 2019.
# - S. Khodadadeh, L. Bölöni, M. Shah, [Unsupervised Meta-Learning for Few-Shot Image
#   Classification](https://arxiv.org/abs/1811.11819), 2019.
