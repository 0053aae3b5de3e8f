"""A config turned into objects: what training, evaluation and prediction have in common."""

import contextlib
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax.sharding import Mesh

from jaxcnn import complexity, exact, models, precise, schedules, step, tree
from jaxcnn import mesh as meshes
from jaxcnn.augment import pipeline
from jaxcnn.config import Config, traced
from jaxcnn.data import catalog, crop, source
from jaxcnn.data.reader import Reader
from jaxcnn.data.resident import Resident
from jaxcnn.data.splits import split_size
from jaxcnn.data.stream import Stream
from jaxcnn.errors import DataError, UsageError, nearest
from jaxcnn.evaluate import Views, make_eval_step, make_predict_step, make_views
from jaxcnn.optim import make_optimizer, peak_rate
from jaxcnn.state import Init, State, abstract_state, born_sharded, make_init
from jaxcnn.typing import Array, Batch, Sums


@dataclasses.dataclass(frozen=True)
class Task:
    """Network, data and devices of a config. All checks that need no data are done when it is built.

    Attributes:
      config: what it was built from.
      mesh: the devices.
      dataset: row of the catalog.
      image_shape: (rows, columns, channels) that the network sees.
      model: the network.
      optimizer: gradient -> direction.
      init: seed -> State at step 0.
      abstract: shapes, dtypes and shardings of the state.
      shared: what was made once for this task, and for those with another config: compiled functions, resident splits.
    """

    config: Config
    mesh: Mesh
    dataset: catalog.Dataset
    image_shape: tuple[int, int, int]
    model: linen.Module
    optimizer: optax.GradientTransformation
    init: Init
    abstract: State
    shared: dict[Any, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def shardings(self) -> State:
        """Where the leaves of the state live."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)

    def with_config(self, config: Config) -> "Task":
        """The same for a config that differs in nothing but ``config.TRACED``; what is compiled is shared."""
        return dataclasses.replace(self, config=config)

    def initial_state(self) -> State:
        """The state at step 0, made where it lives."""
        return born_sharded(self.init, self.shardings, self.config.seed)

    @property
    def num_classes(self) -> int:
        """Logits of the network: one a class, or more."""
        return num_logits(self.config, self.dataset)

    def normalise(self) -> Callable[[Array], Array]:
        """uint8 images -> what the network takes."""
        data = self.config.data
        return step.make_normalise(data.mean or self.dataset.mean, data.std or self.dataset.std)

    def check(self, train_step: step.TrainStep) -> None:
        """Trace the update without running it. UsageError when the network fails in it or gives other logits than one a class."""
        self.views()  # raises where they do not fit the images
        layers = complexity.layers(self.model, self.image_shape) if self.mesh.shape["model"] > 1 else ()
        if grouped := [layer.name for layer in layers if layer.groups > 1]:
            raise UsageError(
                f"mesh={dict(self.mesh.shape)} must have model:1, as {grouped[0]} of {self.config.model.name} is a grouped "
                "convolution: XLA multiplies the gradients of those by the size of the axis model"
            )
        with _as_usage_error(self.config):
            jax.eval_shape(train_step, self.abstract, self.abstract_batch(self.config.data.batch_size))

    def abstract_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a training batch."""
        rows = meshes.rows(self.mesh)
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8, sharding=rows),
            **{
                name: jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=rows)
                for name in ("label", "example", "epoch")
            },
        }

    def train_step(self, total_steps: int) -> step.TrainStep:
        """The jitted update; it takes the memory of the state that it is given."""
        update = self._update(self.config, total_steps)
        if self.config.elastic_exact:
            return update  # several programs, compiled already
        return jax.jit(update, donate_argnums=0, out_shardings=(self.shardings, meshes.everywhere(self.mesh)))

    def update_of(self, total_steps: int) -> Callable[[Mapping[str, Array], State, Batch], tuple[State, Sums]]:
        """``(values, state, batch) -> (state, sums)``, not jitted: the update of runs that differ in the seed or in numbers.

        ``values`` holds, by dotted path, what is another in each run; paths of ``config.TRACED`` only.
        """

        def update(values: Mapping[str, Array], state: State, batch: Batch) -> tuple[State, Sums]:
            config = traced(self.config, values)
            task = dataclasses.replace(self, config=config, optimizer=make_optimizer(config.optimizer))
            return task._update(config, total_steps)(state, batch)

        return update

    def _update(self, config: Config, total_steps: int) -> step.TrainStep:
        leave_out_bad = config.data.max_bad_records > 0
        gradient = step.make_gradient(
            self.model,
            self.normalise(),
            num_classes=self.num_classes,
            label_smoothing=config.loss.label_smoothing,
            aux_weight=config.loss.aux_weight,
            freeze=config.optimizer.freeze,
            leave_out_bad=leave_out_bad,
        )
        update = step.make_update(
            self.optimizer,
            schedules.make_schedule(config.schedule, peak_rate(config.optimizer, config.data.batch_size), total_steps),
            freeze=config.optimizer.freeze,
            ema_decay=config.optimizer.ema_decay,
            skip_nonfinite=config.nonfinite == "skip",
        )
        gradient = step.accumulated(gradient, config.optimizer.accumulate)
        if config.elastic_exact:
            return exact.make_train_step(
                gradient, update, config.augment, self.mesh, config.seed, self.crops_on_host, leave_out_bad
            )
        augment = pipeline.make_augment(config.augment, config.seed, self.crops_on_host)
        return step.make_train_step(gradient, update, augment, config.seed, leave_out_bad)

    def moments_step(self):
        """The jitted ``(variables, batch, step) -> moments`` of each BatchNorm, see ``precise``."""
        config = self.config
        augment = pipeline.make_augment(config.augment, config.seed, self.crops_on_host)
        moments = precise.make_moments(self.model, self.normalise(), augment, config.optimizer.freeze, config.seed)
        return jax.jit(moments, out_shardings=meshes.everywhere(self.mesh))

    def eval_step(self):
        """The jitted ``(variables, batch) -> sums``."""
        return self._once("eval", make_eval_step)

    def predict_step(self):
        """The jitted ``(variables, uint8 images) -> probabilities``."""
        return self._once("predict", make_predict_step)

    def _once(self, name: str, make: Callable[..., Any]) -> Any:
        if name not in self.shared:
            function = make(self.model, self.normalise(), self.views())
            self.shared[name] = jax.jit(function, out_shardings=meshes.everywhere(self.mesh))
        return self.shared[name]

    def views(self) -> Views:
        """The views of an image whose probabilities are averaged."""
        return make_views(self.config.data.eval_views, self.image_shape[:2])

    def fit(self, *, train: bool = False) -> tuple[int | None, str]:
        """(size of the images that are read, None as stored; how they get there, see ``image.fit``)."""
        data, size = self.config.data, self.image_shape[0]
        if data.eval_views == "ten" and not train:
            return size * 8 // 7, "square"
        return size if self.dataset.varying or data.image_size is not None else None, data.fit

    @property
    def crops_on_host(self) -> bool:
        """Whether training crops are chosen while a photograph is decoded: its size is known there only."""
        return self.dataset.varying and self.config.augment.crop != "none"

    def is_resident(self, num_examples: int, *, train: bool = False) -> bool:
        """Whether a split of so many examples is kept on the devices instead of streamed."""
        fits = num_examples * math.prod(self.image_shape) <= self.config.data.resident_gb * 1e9
        return fits and not (train and self.crops_on_host)

    def load(self, split: str, *, train: bool = False) -> Resident | Stream:
        """A split, its images as the network sees them: on the devices if it fits there, else read while it is used.

        Both give the same batches. ``train``: for training, with random crops if the config asks for them.
        """
        data, rows = self.config.data, meshes.rows(self.mesh)
        size, fit = self.fit(train=train)
        crops = self.config.augment if train and self.crops_on_host else None
        if self.is_resident(self.num_examples(split), train=train):
            if (split, fit, size) not in self.shared:
                examples = source.load(self.dataset, split, data.data_dir, size, fit, data.max_bad_records)
                self.shared[split, fit, size] = Resident(examples, meshes.everywhere(self.mesh), rows)
            return self.shared[split, fit, size]
        records = source.open_split(self.dataset, split, data.data_dir)
        if data.cache != "none" and self.dataset.varying:
            length, channels = self.image_shape[0] * 8 // 7, self.image_shape[2]
            records = source.cached(self.dataset, records, data.cache, length, channels)
        reader = Reader(self.dataset, records, size, fit, data.max_bad_records)
        return Stream(reader, rows, crops, data.threads, data.ahead, meshes.share(self.mesh))

    def fingerprint(self, split: str) -> str:
        """Tells whether the examples of a split are still the same, see ``data.source``."""
        return source.fingerprint(source.open_split(self.dataset, split, self.config.data.data_dir))

    def num_examples(self, split: str) -> int:
        """Number of examples of a split, without reading it."""
        return split_size(source.split_sizes(self.dataset, self.config.data.data_dir), split)


def build(
    config: Config,
    num_devices: int | None = None,
    dataset: catalog.Dataset | None = None,
    mesh_shape: str | None = None,
    mesh: Mesh | None = None,
) -> Task:
    """Turn a config into objects. UsageError for unknown names, fields and sizes that do not fit; nothing is compiled.

    Args:
      config: of the run.
      num_devices, mesh_shape: the devices, see ``mesh.make_mesh``; or ``mesh``, when it is there already.
      dataset: the row that ``config.data.dataset`` names, where it is known already; None: it is looked up.
    """
    mesh = mesh or meshes.make_mesh(num_devices, mesh_shape)
    if config.elastic_exact:
        exact.check(mesh, config.data.batch_size)
        for field, only in (("precise_batches", 0), ("steps_per_execution", 1), ("optimizer.clip_norm", None)):
            if (value := operator.attrgetter(field)(config)) != only:
                raise UsageError(f"{field}={value} must be {only} with elastic_exact=True")
    dataset = dataset or source.find(config.data.dataset, config.data.data_dir)
    (rows, columns, channels), size = dataset.image_shape, config.data.image_size
    if size is not None and config.data.fit == "pad" and not dataset.varying and size < max(rows, columns):
        raise UsageError(f"data.image_size={size} must be >= {max(rows, columns)} with data.fit=pad; use resize")
    for field in ("mean", "std"):
        if (given := getattr(config.data, field)) and len(given) != channels:
            raise UsageError(f"data.{field}={given} must be {channels} numbers, one a channel, or none")
    image_shape = (rows, columns, channels) if size is None else (size, size, channels)
    crop.check(config.augment, min(image_shape[:2]))
    num_classes, overrides = num_logits(config, dataset), dict(config.model.overrides)
    if overrides.get("norm") == "local":  # each device normalises its own examples; in an exact run each shard does
        local = max(config.data.batch_size // meshes.num_rows(mesh) // config.optimizer.accumulate, 1)
        overrides["norm"] = "global" if config.elastic_exact else f"ghost:{local}"
    model = models.create_model(config.model.name, num_classes, config.model.dtype, **overrides)
    optimizer = make_optimizer(config.optimizer)
    init = make_init(model, optimizer, image_shape, config.optimizer.ema_decay is not None)
    with _as_usage_error(config):
        abstract = abstract_state(init, functools.partial(meshes.weights, mesh))
    names = list(tree.named_leaves(abstract.params))
    of_layers = {
        "freeze": config.optimizer.freeze,
        "rest_layers": config.optimizer.rest_layers,
        "rates": [rate.rpartition("=")[0] for rate in config.optimizer.rates],
    }
    for field, pattern in ((field, pattern) for field, patterns in of_layers.items() for pattern in patterns):
        if not any(tree.matches(name, [pattern]) for name in names):
            top = dict.fromkeys(name.split("/")[0] for name in names)
            raise UsageError(
                f"optimizer.{field}={pattern!r} fits no layer of {config.model.name}{nearest(pattern, top)}"
            )
    return Task(config, mesh, dataset, image_shape, model, optimizer, init, abstract)


def num_logits(config: Config, dataset: catalog.Dataset) -> int:
    """Width of the network's last layer: the classes of the dataset, or what the config says, which may be more."""
    wanted = config.model.num_classes
    if wanted is not None and wanted < dataset.num_classes:
        raise DataError(
            f"model.num_classes={wanted} must be >= {dataset.num_classes}, the classes of {dataset.name}"
            + source.label_beyond(wanted, dataset, config.data.train_split, config.data.data_dir)
        )
    return wanted or dataset.num_classes


@contextlib.contextmanager
def _as_usage_error(config: Config) -> Iterator[None]:
    """Whatever a network raises while it is traced is its author's to mend: one line that names it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"model={config.model.name!r} cannot be used: {type(error).__name__}: {reason}") from error
