"""What a result is: numbers that carry unit, origin and uncertainty, and the tables and plots made of them.

Tasks, compiler and backends produce these values; `reports/` only draws them. They are stored as they are in report.json.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Origin = Literal[
    "computed",  # software on test data
    "simulated",  # cycle-accurate or C-simulation of the hardware description
    "synthesised",  # yosys netlist
    "routed",  # place and route closed timing
    "estimated",  # a model, not a tool's result
    "measured",  # a clock on the wall of the computer that ran it
    "vendor",  # parsed from a vendor's report
    "requested",  # an input, such as the clock
    "published",  # from a paper, with its reference in `note`
]


Verdict = Literal[
    "holds",  # on the unfavourable confidence limit, too
    "fails",  # on the favourable confidence limit, too
    "undecided",  # the confidence interval lies on both sides
    "not tested",  # it could not be tested here
]


OLDER_RULE = (
    "The claims of this report were judged on central values, as version 0.1 did, not on confidence limits: some that hold would "
    "be undecided today."
)


class ResultModel(BaseModel):
    """Base of all stored results: frozen, and strict about misspelt fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Number(ResultModel):
    """One figure with unit and origin; an accuracy also carries its statistical uncertainty and sample size."""

    kind: Literal["number"] = "number"
    value: float | int
    unit: str = ""
    """`""` for a pure number, `"%"`, `"cycles"`, `"GeV"`, ..."""
    origin: Origin
    uncertainty: float | None = None
    """Half width of the central 68 % interval, in `unit`."""
    sample: str = ""
    """What it was taken on, e.g. `"3,012 seeds"`."""
    note: str = ""


Cell = Annotated[Number | str, Field(union_mode="left_to_right")]


class Table(ResultModel):
    """Rows of numbers and words under named columns."""

    kind: Literal["table"] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Self:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: row {i} has {len(row)} cells for {len(self.columns)} columns")
        return self


class Series(ResultModel):
    """One curve or set of points; errors are absolute lengths, not positions."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_error: tuple[float, ...] = ()
    """Half bin widths; empty for a curve."""
    y_error_low: tuple[float, ...] = ()
    y_error_high: tuple[float, ...] = ()
    style: Literal["points", "line", "steps"] = "points"
    """Steps are a histogram: x are bin centres, x_error half bin widths."""

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        for name in ("y", "x_error", "y_error_low", "y_error_high"):
            length = len(getattr(self, name))
            if length != len(self.x) and (length or name == "y"):
                raise ValueError(f"series {self.name!r}: {name} has {length} entries for {len(self.x)} x")
        return self


class Plot(ResultModel):
    """One figure: axes with units in the labels, series, and optionally a panel of ratios to one of them."""

    kind: Literal["plot"] = "plot"
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    ratio_to: str = ""
    """Name of the series that the others are divided by in a lower panel; empty for none."""
    caption: str = ""

    @model_validator(mode="after")
    def _ratio_to_one_of_the_series(self) -> Self:
        names = [series.name for series in self.series]
        if self.ratio_to and self.ratio_to not in names:
            raise ValueError(f"plot {self.title!r}: ratio_to {self.ratio_to!r} is none of its series: {', '.join(names)}")
        return self


CELLS = "x [cells]", "y [cells]"


class Image(ResultModel):
    """A map of cell energies or other values on a grid, shown as a heat map."""

    kind: Literal["image"] = "image"
    title: str
    values: tuple[tuple[float, ...], ...]
    """Row-major (x, y); x is drawn to the right, y upwards."""
    unit: str
    marks: tuple[tuple[float, float, str], ...] = ()
    """Points (x, y, legend label) in cell coordinates, cell centres at half-integers."""
    labels: tuple[str, str] = Field(default=CELLS, exclude_if=lambda labels: labels == CELLS)
    """Of the axes to the right and upwards."""
    colour_range: tuple[float, float] | None = None
    """Values at both ends of a logarithmic colour scale, above 0, so that images can be compared; by itself where it is None."""
    caption: str = ""

    @model_validator(mode="after")
    def _positive_range(self) -> Self:
        if self.colour_range and not 0 < self.colour_range[0] < self.colour_range[1]:
            raise ValueError(f"image {self.title!r}: colours from {self.colour_range[0]} to {self.colour_range[1]}")
        return self

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if len({len(column) for column in self.values}) > 1:
            raise ValueError(f"image {self.title!r}: values are not a rectangle")
        return self


class Claim(ResultModel):
    """A statement that was tested, with what was found; a claim that failed stays in the report as failed."""

    kind: Literal["claim"] = "claim"
    statement: str
    verdict: Verdict
    found: str
    brief: str = ""
    """The claim and its figure in a few words, for places where there is no room; empty: the statement."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_report(cls, data: Any) -> Any:
        """Read reports of version 0.1, which stored whether a claim `holds`: true, false, or null where it was not tested."""
        if isinstance(data, dict) and "holds" in data and "verdict" not in data:
            data = dict(data)
            data["verdict"] = verdict(data.pop("holds"))
        return data


def verdict(holds: bool | None) -> Verdict:
    """Return the verdict on a claim that no statistical error blurs, such as exactness; None: it could not be tested."""
    return "not tested" if holds is None else "holds" if holds else "fails"


class Facts(ResultModel):
    """Name-value pairs: what was run, or a design's figures."""

    kind: Literal["facts"] = "facts"
    title: str
    items: tuple[tuple[str, Cell], ...]


Block = Annotated[Table | Plot | Image | Claim | Facts, Field(discriminator="kind")]


class Section(ResultModel):
    """A heading, a sentence or two, and its blocks in reading order."""

    title: str
    text: str = ""
    blocks: tuple[Block, ...]


def label(figure: str, method: str) -> str:
    """Return the name of one method's headline figure; `reports.headline.figures` takes it apart."""
    return f"{figure}, {method}" if method else figure


class Report(ResultModel):
    """All results of one artifact on one data set."""

    title: str
    summary: str
    created: str
    """ISO 8601, UTC."""
    headline: tuple[tuple[str, Number], ...]
    """The few figures a reader wants first, each with its `label`."""
    sections: tuple[Section, ...]
    best: tuple[str, ...] = ()
    """Names of the headline figures that are the best of their kind."""
    caveats: tuple[str, ...] = ()
    """What someone must know before using the model: failed and undecided claims and other limits, gravest first, one sentence
    each. They stand above the headline figures."""
    data_label: str = ""
    """What the data are, written above every figure, e.g. `"Geant4 simulation"`."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_report(cls, data: Any) -> Any:
        """Say of reports of version 0.1, which have no caveats, how their claims were judged and which do not hold."""
        if not isinstance(data, dict) or "caveats" in data or not isinstance(data.get("sections"), list):
            return data
        blocks = [block for section in data["sections"] if isinstance(section, dict) for block in section.get("blocks", ())]
        old = [block for block in blocks if isinstance(block, dict) and "holds" in block]
        fails = [f"Does not hold: {claim.get('statement')} {claim.get('found')}." for claim in old if claim["holds"] is False]
        return data | {"caveats": (*fails, *([OLDER_RULE] if old else []))}
