"""From the values of tables and series to inputs of models, by scikit-learn's preprocessing.

What is fitted (medians, means, spreads, categories) is of public rows, or of one client's own:
never of all private rows together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float32

from fedkd.data.prepared_series import PreparedSeries
from fedkd.data.prepared_tables import MISSING, PreparedTable
from fedkd.settings.conditions import RunConditions
from fedkd.settings.schema import defaults, section_values
from fedkd.settings.validators import check_choices

ENCODED = ("tables", "series")
"""The kinds of data that are preprocessed so."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How tables and series become inputs of models; for these kinds of data only."""

    fit: Literal["public", "own"] = "public"
    """Of which rows the numbers are that fill in and scale: rows that no client holds, or each
    client's own training rows, so that clients see one public row differently. Categories are
    always those of public rows."""
    scaling: Literal["standard", "min_max", "robust", "none"] = "standard"
    """What is taken from each number, and what it is divided by: mean and standard deviation,
    smallest value and range, or median and quartile range; of series by channel."""
    missing: Literal["median", "mean", "most_frequent"] = "median"
    """What stands in for a missing number of a table. A missing category is all zeros, as is one
    that no public row has."""

    def __post_init__(self) -> None:
        check_choices(self)

    def conflict(self, conditions: RunConditions) -> str | None:
        """Return the conflict of a changed setting with data that are not preprocessed so."""
        usual, data = defaults(Preprocessing), conditions.name_of("data")
        values = section_values(self)
        changed = [name for name, value in values.items() if value != usual[name]]
        if changed and conditions.data_kind not in ENCODED:
            return f"preprocessing.{changed[0]} would do nothing: data={data} are" + (
                f" {conditions.data_kind}"
            )
        if self.fit == "own" and conditions.pooled_data:
            return (
                f"preprocessing.fit=own: strategy={conditions.strategy} trains on the private sets"
                " of all clients, which would be fitted to together; use fit=public"
            )
        if self.fit == "own" and conditions.is_chosen("audit"):
            return (
                "preprocessing.fit=own: an audit asks all models about the same inputs, and clients"
                " see them differently; use fit=public"
            )
        if self.fit == "own" and conditions.hides_single_records:
            return (
                "preprocessing.fit=own takes means and spreads of private rows, which"
                f" privacy={conditions.name_of('privacy')} does not count; use fit=public"
            )
        if "missing" in changed and conditions.data_kind == "series":
            return f"preprocessing.missing would do nothing: series (data={data}) have none missing"
        return None


class Encoder(Protocol):
    """A fitted preprocessing of one kind of data."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one model input."""

    def encode(self, prepared: Any, rows: np.ndarray) -> Float32[np.ndarray, "n *shape"]:
        """Return rows of a prepared data set as model inputs."""

    def facts(self) -> Mapping[str, object]:
        """Return what was fitted, as plain values."""


class EncoderMaker(Protocol):
    """Makes an encoder of one kind of data."""

    def __call__(
        self, prepared: Any, rows: np.ndarray, public: np.ndarray, settings: Preprocessing, /
    ) -> Encoder:
        """Return an encoder that is fitted to some rows.

        Args:
            prepared: The data set.
            rows: The rows that decide how numbers are scaled.
            public: The rows that decide what all clients' inputs must have in common.
            settings: How.
        """


class TableEncoder:
    """Numbers, filled in and scaled, then a column of zeros and ones for each category."""

    def __init__(
        self, table: PreparedTable, rows: np.ndarray, public: np.ndarray, settings: Preprocessing
    ) -> None:
        """Fit it to some rows of a table, and to the categories of public rows."""
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder

        self._schema = table.schema
        # A column that is missing in all of these rows is kept, as zeros.
        fill = SimpleImputer(strategy=settings.missing, keep_empty_features=True)
        self._numbers = make_pipeline(fill, *_scaler(settings)) if table.schema.numbers else None
        if self._numbers is not None:
            self._numbers.fit(table.numbers[rows])
        codes = np.asarray(table.codes[public])
        self._known = [np.setdiff1d(column, [MISSING]) for column in codes.T]
        self._seen = [i for i, known in enumerate(self._known) if len(known)]
        self._categories = OneHotEncoder(
            categories=[self._known[i] for i in self._seen],
            handle_unknown="ignore",
            sparse_output=False,
            dtype=np.float32,
        )
        if self._seen:
            self._categories.fit(codes[:, self._seen])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The number of numbers and of categories that were seen."""
        return (len(self._schema.numbers) + sum(map(len, self._known)),)

    def encode(self, prepared: PreparedTable, rows: np.ndarray) -> Float32[np.ndarray, "n columns"]:
        """Return rows of a table of the same schema as model inputs."""
        inputs = np.zeros((len(rows), *self.input_shape), dtype=np.float32)
        if self._numbers is not None:
            numbers = self._numbers.transform(np.asarray(prepared.numbers[rows]))
            inputs[:, : numbers.shape[1]] = numbers
        if self._seen:
            codes = np.asarray(prepared.codes[rows])[:, self._seen]
            known = self._categories.transform(codes)
            inputs[:, inputs.shape[1] - known.shape[1] :] = known
        return inputs

    def facts(self) -> Mapping[str, object]:
        """Return the columns of inputs, what fills a number in, and how it is scaled."""
        schema = self._schema
        values = zip(schema.categories, schema.values, self._known, strict=True)
        steps = [] if self._numbers is None else [step for _, step in self._numbers.steps]
        scaled = ", less `center`, divided by `scale`" if len(steps) > 1 else ""
        return {
            "in_words": f"Rows [N, {self.input_shape[0]}]: the columns `numbers`, a missing one as"
            f" `filled_in`{scaled}; then a 1 or 0 for each of `categories`.",
            "numbers": list(schema.numbers),
            "filled_in": steps[0].statistics_.tolist() if steps else [],
            **(_scale_of(steps[1]) if len(steps) > 1 else {}),
            "categories": {name: [all_[code] for code in known] for name, all_, known in values},
        }


class SeriesEncoder:
    """Series, each channel scaled as one column of numbers."""

    def __init__(
        self, series: PreparedSeries, rows: np.ndarray, public: np.ndarray, settings: Preprocessing
    ) -> None:
        """Fit it to some rows of series; public ones decide nothing more."""
        _, self._channels, self._length = series.values.shape
        self._scaler = next(iter(_scaler(settings)), None)
        if self._scaler is not None:
            self._scaler.fit(_by_channel(series.values[rows]))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and length."""
        return (self._channels, self._length)

    def encode(
        self, prepared: PreparedSeries, rows: np.ndarray
    ) -> Float32[np.ndarray, "n channels length"]:
        """Return rows of series of the same shape as model inputs."""
        values = np.asarray(prepared.values[rows])
        if self._scaler is not None and len(values):
            scaled = self._scaler.transform(_by_channel(values))
            values = scaled.reshape(len(values), self._length, self._channels).transpose(0, 2, 1)
        return np.ascontiguousarray(values, dtype=np.float32)

    def facts(self) -> Mapping[str, object]:
        """Return how each channel is scaled."""
        scale = {} if self._scaler is None else _scale_of(self._scaler)
        scaled = ", each channel less `center`, divided by `scale`" if scale else ""
        shape = f"[N, {self._channels}, {self._length}] (channels, length)"
        return {"in_words": f"Series {shape}{scaled}.", **scale}


def _by_channel(values: np.ndarray) -> np.ndarray:
    """Return series [n, channels, length] as [n * length, channels], in double precision."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1]).astype(np.float64)


def _scaler(settings: Preprocessing) -> list[Any]:
    """Return the scaler of some settings; none for ``none``."""
    from sklearn import preprocessing

    made = {
        "standard": preprocessing.StandardScaler,
        "min_max": preprocessing.MinMaxScaler,
        "robust": preprocessing.RobustScaler,
    }
    return [made[settings.scaling]()] if settings.scaling in made else []


def _scale_of(scaler: Any) -> dict[str, object]:
    """Return what a scaler takes from each column, and what it divides by."""
    if hasattr(scaler, "data_min_"):  # that one multiplies
        return {"center": scaler.data_min_.tolist(), "scale": (1 / scaler.scale_).tolist()}
    center = scaler.mean_ if hasattr(scaler, "mean_") else scaler.center_
    return {"center": center.tolist(), "scale": scaler.scale_.tolist()}
