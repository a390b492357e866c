# ruff: noqa: B905, F821

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
# For example, let $D(x) = \frac34$ and $D(G(z)) = \frac14$. Then $L_D = -\frac12 (\log\frac34 + \log\frac34) = 0.288$
# and $L_G = -\log\frac14 = 1.386$. If $D$ cannot distinguish the images, $D = \frac12$ and both losses are
# $\log 2 = 0.693$. `gan_losses` takes **logits** $\ell$, where $D = \sigma(\ell) = 1 / (1 + e^{-\ell})$:

# %%
from meta_keras.unsupervised import GAN, UMTRA, cluster_classes, density_and_coverage, gan_losses

logit = np.float32(np.log(3))  # sigmoid(log 3) = 3 / 4
of_discriminator, of_generator = gan_losses(tf.constant([logit]), tf.constant([-logit]))
print(f"loss of D {of_discriminator:.3f}, loss of G {of_generator:.3f}")

# %% [markdown]
# Early in training, $D$ recognizes every generated image: $\ell$ is very negative. How strongly is $G$ corrected then? If
# $G$ maximized $L_D$, its second term would have almost no gradient, because $\log(1 - D)$ is flat near $D = 0$. The
# **non-saturating** loss of Formula 7.7 has a gradient of almost $-1$ there:

# %%
logits = tf.Variable(np.linspace(-8, 4, 100, dtype="float32"))
with tf.GradientTape(persistent=True) as tape:
    losses = {
        "non-saturating, -log D": -tf.math.log_sigmoid(logits),
        "saturating, log(1 - D)": tf.math.log_sigmoid(-logits),
        "without logarithms, -D": -tf.sigmoid(logits),
    }
fig, ax = plt.subplots(figsize=(6, 2.6))
for name, loss in losses.items():
    ax.plot(logits.numpy(), tape.gradient(loss, logits), label=name)
ax.set(xlabel="logit of a generated image", ylabel="gradient for G")
ax.legend()
plt.show()

# %% [markdown]
# For a fixed generator with density $q$ and data with density $p$, the best discriminator is $D = p / (p + q)$. Where the
# two do not overlap it becomes arbitrarily steep, and training can oscillate or **collapse** (模式崩溃): $G$ makes only a
# few kinds of images. Mescheder, Geiger and Nowozin (2018) therefore add a penalty to $L_D$, called R1, on the gradient
# of the logit at real images:
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
critic = keras.Sequential([keras.Input((16, 16, 1))])
generator = keras.Sequential([keras.Input((32,)), layers.Dense(512), layers.Reshape((4, 4, 32))])
for filters in (32, 64):
    critic.add(layers.Conv2D(filters, 3, 2, padding="same"))
    critic.add(layers.LeakyReLU(0.2))
    generator.add(layers.Conv2DTranspose(32, 3, 2, padding="same", use_bias=False))
    generator.add(layers.BatchNormalization(momentum=0.9))
    generator.add(layers.ReLU())
critic.add(layers.Flatten())
generator.add(layers.Conv2D(1, 3, padding="same"))  # logits of the pixels

# %%
gan = GAN(critic, generator, penalty=1.0)
gan.compile(keras.optimizers.Adam(0.0005, beta_1=0.5), jit_compile=False)
history = gan.fit(small, batch_size=64, epochs=8, verbose=0).history
print({name: round(values[-1], 3) for name, values in history.items()})

# %%
fig, axes = plt.subplots(2, 12, figsize=(9, 1.9))
for row, name, shown in zip(axes, ("real", "generated"), (small_test[::42], gan.sample(12, seed=0))):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, image in zip(row, shown):
        ax.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ### Does it cover the data?
#
# Good-looking samples do not show what is missing. We use two measures. A classifier, trained with labels, assigns a
# class to every generated image; with $p_k$ as the fraction of class $k$, the **effective number of classes** is
#
# $$\exp\Big(-\sum_k p_k \log p_k\Big) \qquad \text{(Formula 7.10)}$$
#
# which is 10 if all ten classes are equally frequent, and 1 if there is only one.

# %% [markdown]
# The second measure also notices what is missing within a class (Naeem et al., 2020). Let $B_i$ be the ball around real
# image $x_i$ that reaches to its $k$-th nearest real neighbor, a nearest-neighbor estimate of the **density**: balls
# are small where real images are dense. For $N$ real images $x_i$ and $M$ generated images $y_j$,
#
# $$\text{density} = \frac{1}{kM} \sum_{j=1}^{M} \sum_{i=1}^{N} [y_j \in B_i], \qquad
# \text{coverage} = \frac1N \sum_{i=1}^{N} \big[\text{some } y_j \in B_i\big]. \qquad \text{(Formula 7.9)}$$

# %%
shown = {"real training images": small[::4], "generated": gan.sample(500, seed=0)}
shown["mean image of each class"] = np.repeat(
    [small[clothes_labels == k].mean(axis=0) for k in range(10)], 50, axis=0
)
for name, candidates in shown.items():
    density, coverage = density_and_coverage(small_test, candidates)
    print(f"{name}: density {density:.2f}, coverage {coverage:.2f} (in pixels)")

# %% [markdown]
# The stored runs train for 1,000 steps with five seeds, and measure distances in the features of the classifier. Learning
# rate and penalty were selected by coverage on validation images. We call a run collapsed if a class has less than 1 %
# of the samples, or coverage is below half of that of real images:

# %%
gan_runs = mk.report.measured("chapter_07_gan")
names = ("GAN", "GAN without penalty", "normal distribution", "real images")
runs = {name: [gan_runs[f"test: {name}, seed {seed}"] for seed in range(5)] for name in names}
half = np.mean([run["coverage"] for run in runs["real images"]]) / 2
table = []
for name, group in runs.items():
    collapsed = [run["smallest share"] < 0.01 or run["coverage"] < half for run in group]
    columns = {
        key: mk.Score.of([run[key] for run in group]) for key in ("classes", "density", "coverage")
    }
    table.append({"images": name, **columns, "collapsed": f"{sum(collapsed)} of 5"})
mk.report.Table(table)

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharex=True)
for ax, key, level in zip(axes, ("classes", "coverage"), (10, 2 * half)):
    for name, line in (("GAN", "-"), ("GAN without penalty", ":")):
        curves = np.array([run["curve"][key] for run in runs[name]])
        ax.plot(np.arange(250, 1001, 250), curves.T, line, color=mk.report.PALETTE[line == ":"], lw=1.2)
        ax.plot([], [], line, color=mk.report.PALETTE[line == ":"], label=name)
    ax.axhline(
        level,
        color="0.45",
        lw=1,
        ls=(0, (2, 2)),
        label="real images" if key == "coverage" else "all classes",
    )
    ax.set(xlabel="training steps", ylabel="effective classes" if key == "classes" else "coverage")
    ax.legend(fontsize=8)
plt.show()

# %%
assert not any(run["smallest share"] < 0.01 or run["coverage"] < half for run in runs["GAN"])

# %% [markdown]
# > **In the articles.** D4 ([section 4.4](README.md#from-the-documents-to-the-chapters)) prints
# > $-\frac12 (\mathbb{E}[D(x)] - \mathbb{E}[D(G(z))])$ as the loss of both networks. The logarithms and the $1 - D$ are
# > missing, it is not said who minimizes it, and $G(x) = z$ has the direction of the generator reversed. See the
# > [errata](README.md#errata).

# %% [markdown]
# ## Tasks without labels
#
# So far, features were learned first and few-shot tasks came later. **Unsupervised meta-learning** (无监督元学习) in the
# strict sense meta-trains *on tasks*, which are constructed without labels. Two constructions are common.
#
# **CACTUs** (Hsu, Levine and Finn, 2019) takes *clusters* of features as classes. The clusters come from **k-means**
# (k均值聚类), which chooses centers $m$ with a small sum of squared distances:
#
# $$\sum_i \min_c \lVert f(x_i) - m_c \rVert^2 \qquad \text{(Formula 7.11)}$$

# %%
blurred = tf.nn.avg_pool2d(images, 4, 4, "SAME").numpy().reshape(len(images), -1)
clusters = cluster_classes(train.examples[::4], blurred[::4], clusters=200, seed=0).with_at_least(3)
print(clusters)
episode = next(iter(mk.FewShot(clusters, ways=4, shots=1, queries=2, seed=1)))
figure = mk.report.show_episode(episode)

# %% [markdown]
# Clusters of pixels join characters of similar shape, and separate drawings of one character that are slanted
# differently. **UMTRA** (Khodadadeh, Bölöni and Shah, 2019) therefore does without clusters: $N$ random images are the $N$
# classes of a task, and *augmented* versions of them are its queries. Two of the images may show the same character.
# With $C$ characters and $M$ drawings of each, all are different with the probability
#
# $$\prod_{i=1}^{N-1} \frac{(C - i) \, M}{C M - i} \qquad \text{(Formula 7.12)}$$

# %%
C, M = len(train), 20
print(f"all different: {np.prod([(C - i) * M / (C * M - i) for i in range(1, 5)]):.4f}")
zoom, options = (-0.2, 0.2), {"fill_mode": "constant"}
affine = keras.Sequential(
    [
        layers.RandomShear(0.2, 0.2, **options),
        layers.RandomZoom(zoom, zoom, **options),
        layers.RandomRotation(0.04, **options),
        layers.RandomTranslation(0.1, 0.1, **options),
    ]
)
pseudo_tasks = UMTRA(train.examples, {"query": affine}, ways=5, shots=1, queries=2, meta_batch=16)
figure = mk.report.show_episode(next(iter(pseudo_tasks)))

# %% [markdown]
# Both are task distributions like `FewShot`, so a `MetaLearner` trains on them unchanged, here with prototypes:

# %%
keras.utils.set_random_seed(0)
learner = mk.MetaLearner(network=encoder(), rule=mk.rules.Prototypes())
learner.compile(keras.optimizers.Adam(0.003), jit_compile=False)
learner.fit(pseudo_tasks, steps_per_epoch=100, verbose=0)
new_tasks = mk.FewShot(test, ways=5, shots=1, queries=5, meta_batch=20)
print(f"UMTRA, 100 steps: {mk.evaluate(learner, new_tasks)}")

# %% [markdown]
# The stored comparison trains prototypes for 400 steps on the same number of images for every kind of task. All settings
# were selected on validation alphabets: learning rate, augmentation, and number of clusters. Accuracies are means over
# three seeds with 600 tasks each:

# %%
task_runs = mk.report.measured("chapter_07_tasks")
methods = (
    "raw pixels",
    "random features",
    "CACTUs, pixels",
    "CACTUs, contrastive",
    "UMTRA",
    "supervised",
)
scores = {
    name: [task_runs[f"test: {name}, seed {seed}"]["1-shot"] for seed in range(3)] for name in methods
}
rows = []
for name, values in scores.items():
    behind = mk.Score.of(np.subtract(scores["supervised"], values), "points")
    rows.append({"tasks": name, "5-way 1-shot": mk.Score.of(values), "behind supervised": behind})
mk.report.Table(rows)

# %%
fig, ax = plt.subplots(figsize=(6.5, 2.8))
for name in methods[2:]:
    curves = [task_runs[f"test: {name}, seed {seed}"]["curve"] for seed in range(3)]
    ax.plot(np.arange(100, 401, 100), np.mean(curves, axis=0), marker="o", label=name)
ax.axhline(np.mean(scores["raw pixels"]), color="0.45", lw=1, label="raw pixels")
ax.set(xlabel="meta-training steps", ylabel="5-way 1-shot accuracy\non unseen alphabets")
ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# RESULTS OF THE COMPARISON

# %% [markdown]
# > **In the articles.** D4 ([section 3.3](README.md#from-the-documents-to-the-chapters)) calls self-supervised learning,
# > GANs and VAEs unsupervised *meta*-learning. They learn features or images, and no task is adapted to. Tasks make the
# > difference, and this section constructs them.

# %% [markdown]
# **Exercise. The best discriminator.** For discrete images with probabilities `p` (real) and `q` (generated), implement
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
# **Exercise. How many tasks have wrong labels?** Implement `all_different(counts, ways)`, the probability that `ways`
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
# **Exercise (open-ended). Augmentations for clothes.** Construct tasks from Fashion-MNIST with UMTRA. Which augmentations
# keep the class of a garment, and which ones change it? Rubric: at least three augmentations; settings selected on
# classes that are not used in the test; three seeds with intervals; raw pixels as a baseline; a figure of the tasks; and
# a paragraph on what the augmentation tells the learner that the images do not.
