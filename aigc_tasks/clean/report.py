"""What cleaning found: as counts, and as one HTML page that holds its own pictures.

Every id and label on the page is a stranger's text. It is escaped, what would not show is spelt out, and the page's own
policy keeps a browser from running or loading anything.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from aigc_tasks.clean.arrays import SPLITS, in_order, keys
from aigc_tasks.modalities import image

MEANINGS = {  # of reasons and flags, in words for someone who sees them for the first time
    "unreadable": "no picture can be made of the file, or the picture is damaged",
    "not a picture": "a file of another kind",
    "truncated": "the file breaks off before the picture is whole, or is damaged within",
    "wrong type": "the ending of the name says another type than the content",
    "bomb": "decoded it would need far more memory than any real picture; it was not decoded",
    "animation": "more than one frame",
    "odd mode": "not plain grey or RGB, or not upright: converted",
    "too small": "a side shorter than can be learned from",
    "extreme aspect": "much longer than it is wide, or the other way round",
    "blank": "one level of grey or colour and nothing else",
    "size differs": "another size than the first picture, and no size to bring all to is set",
    "duplicate": "the same pixels as another picture, which was kept",
    "near duplicate": "almost the same pixels as another picture, by perceptual hash",
    "label conflict": "the same pixels under different labels: none can be trusted",
    "outlier": "far from all others in a simple embedding: worth a look",
}
FIXED = re.compile(r"(duplicate|near duplicate|label conflict) (?:of|with) .*| \(.*", re.DOTALL)
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode: control, format (bidi), unassigned, line ends
EXAMPLES = 8  # of each reason
REASONS = 40  # lines of a table
ENDS = 20  # classes from the largest on, and as many from the smallest
COMMON = 5  # sizes
PAST = 20  # versions
EXAMPLE, TWIN = 64, 96  # pixels of a side: of an example, of one of a pair
GAP = 14  # between the ends of the flow, in thousandths of its width
BARS = 33  # of a histogram; odd, so that an aspect of 1:1 has one of its own


@dataclass(frozen=True)
class Pictures:
    """What the page shows, uint8 C×H×W with 1 or 3 channels, of any size."""

    dropped: dict[str, list[tuple[str, np.ndarray]]]  # by group of reasons: id and picture
    pairs: list[tuple[str, np.ndarray, str, np.ndarray]]  # near duplicates: the dropped one, its twin
    flagged: dict[str, list[tuple[str, np.ndarray]]]  # by group of flags
    kept: dict[str, list[np.ndarray]]  # by class; "" if unlabelled


def group(reasons: pd.Series) -> pd.Series:
    """The fixed words that reasons or flags begin with, without the twin's id and what is in brackets; null stays."""
    return reasons.map(lambda reason: FIXED.sub(r"\1", reason), na_action="ignore")


def found(manifest: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What was found in dropped samples and in kept ones: ``id``, ``said`` and its ``group``, a row per finding."""
    kept = manifest["reason"].isna()
    dropped = manifest.loc[~kept, ["id", "reason"]].set_axis(["id", "said"], axis=1)
    flagged = manifest.loc[kept & (manifest["flags"] != ""), ["id", "flags"]].set_axis(["id", "said"], axis=1)
    flagged = flagged.assign(said=flagged["said"].str.split("; ")).explode("said")
    return (
        dropped.assign(group=group(dropped["said"])),
        flagged.assign(group=group(flagged["said"])).drop_duplicates(["id", "group"]),
    )


def summary(manifest: pd.DataFrame) -> dict[str, Any]:
    """Counts: samples, kept, dropped by reason, kept ones by flag, per split, per class and split."""
    dropped, flagged = (part["group"].value_counts().sort_index().to_dict() for part in found(manifest))
    table = balance(manifest)
    return {
        "samples": len(manifest),
        "kept": sum(counts["kept"] for counts in table.values()),
        "dropped": dropped,
        "flagged": flagged,
        "splits": {split: sum(counts[split] for counts in table.values()) for split in SPLITS},
        "classes": {
            label: {split: table[label][split] for split in SPLITS}
            for label in in_order({label for label, counts in table.items() if label and counts["kept"]})
        },
    }


def balance(manifest: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Samples per label ("" if none): in train, val and test, kept in all, and dropped."""
    places = manifest["split"].fillna("undivided").where(manifest["reason"].isna(), "dropped")
    table = pd.crosstab(manifest["label"].fillna(""), places)
    table = table.reindex(columns=[*SPLITS, "undivided", "dropped"], fill_value=0)
    return table.assign(kept=table[[*SPLITS, "undivided"]].sum(axis=1)).to_dict("index")  # type: ignore[return-value]


def overlap(manifest: pd.DataFrame) -> dict[str, int]:
    """Kept pictures that are in more than one split: ``exact`` by SHA-256 of the pixels, ``near`` by recorded pairs."""
    kept = manifest[["id", "sha256", "split", "near"]][manifest["reason"].isna()]
    known = kept["sha256"].notna() & kept["split"].notna()
    places = pd.DataFrame({"key": keys(kept["sha256"]), "split": kept["split"]})[known].drop_duplicates()["key"]
    near = kept[kept["near"].notna()]
    twins = near["near"].map(kept[kept["id"].isin(near["near"])].set_index("id")["split"])
    return {
        "exact": int(places[places.duplicated()].nunique()),
        "near": int((twins.notna() & (twins != near["split"])).sum()),
    }


def page(
    name: str,
    manifest: pd.DataFrame,
    pictures: Pictures,
    versions: list[dict[str, Any]],
    changes: Mapping[str, Sequence[str]] | None,
    trouble: str | None,
) -> str:
    """The data report of the data set ``name``: HTML whose bytes depend on the arguments alone.

    ``versions`` are those of ``source.json``, oldest first. ``changes``: ids by what happened to them since the version
    before ("added", "changed", "removed"); None in the first version. ``trouble``: why the stage failed, if it did; the
    manifest may lack its splits then.
    """
    dropped, flagged = found(manifest)
    twins = {twin for _, _, twin, _ in pictures.pairs}
    return PAGE.render(
        name=name,
        trouble=trouble,
        divided=bool(manifest["split"].notna().any()),
        counts=summary(manifest),
        versions=versions[: -PAST - 1 : -1],
        changes=changes,
        flow=flow(manifest),
        findings={"dropped": findings(dropped, pictures.dropped), "flagged": findings(flagged, pictures.flagged)},
        classes=classes(manifest),
        pictures=pictures,
        places=manifest[manifest["id"].isin(twins)].set_index("id")["split"].dropna().to_dict(),
        overlap=overlap(manifest),
        near=int((dropped["group"] == "near duplicate").sum()),
        sizes=sizes(manifest),
        modes=manifest["mode"].value_counts().to_dict(),
        charts=charts(manifest),
        limits={"examples": EXAMPLES, "reasons": REASONS, "ends": ENDS, "example": EXAMPLE, "twin": TWIN},
    )


def flow(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Where the samples go: parts of a bar above, and of one below with gaps, in thousandths of its width."""
    table = balance(manifest).values()
    counts = {place: sum(line[place] for line in table) for place in (*SPLITS, "undivided", "dropped")}
    counts = {place: count for place, count in counts.items() if count}
    room = 1000 - GAP * (len(counts) - 1)
    parts, above, below = [], (1000 - room) / 2, 0.0
    for place, count in counts.items():
        width = room * count / len(manifest)
        parts.append({"place": place, "count": count, "above": above, "below": below, "width": width})
        above, below = above + width, below + width + GAP
    return parts


def findings(rows: pd.DataFrame, pictures: dict[str, list[tuple[str, np.ndarray]]]) -> list[dict[str, Any]]:
    """A line of the table per group, the most frequent first: its examples are ids, details and pictures (or None)."""
    groups = {str(words): part for words, part in rows.groupby("group")}
    lines = []
    for words, part in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        shown: Sequence[tuple[str, np.ndarray | None]] = pictures.get(words, [])[:EXAMPLES]
        shown = shown or [(name, None) for name in part["id"].iloc[:EXAMPLES]]
        said = part[part["id"].isin([name for name, _ in shown])].set_index("id")["said"].to_dict()
        examples = [(name, said.get(name, words)[len(words) :].strip(" ()"), pixels) for name, pixels in shown]
        lines.append({"words": words, "meaning": MEANINGS.get(words, ""), "count": len(part), "examples": examples})
    return lines


def classes(manifest: pd.DataFrame) -> dict[str, Any]:
    """``balance`` as lines in order of class; of more than twice ``ENDS`` classes, the largest and the smallest."""
    table = balance(manifest)
    labels = in_order(set(table) - {""})
    largest = sorted(labels, key=lambda label: -table[label]["kept"])
    between = largest[ENDS:-ENDS]
    shown = [*largest[:ENDS], *largest[-ENDS:]] if between else labels
    return {
        "lines": [{"label": label, **table[label]} for label in [*shown, *({""} & set(table))]],
        "number": len(labels),
        "between": len(between),
        "ends": [table[label]["kept"] for label in (largest[0], largest[-1])] if labels else [],
        "most": max((line["kept"] + line["dropped"] for line in table.values()), default=0),
    }


def sizes(manifest: pd.DataFrame) -> dict[str, Any]:
    """How many sizes there are in the files, and how many pictures have the most frequent."""
    counts = manifest.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable")
    common = counts.iloc[:COMMON].reset_index(name="count").to_numpy().tolist()
    return {
        "number": len(counts),
        "pictures": int(counts.sum()),
        "common": {f"{width}×{height}": count for width, height, count in common},
    }


def charts(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Histograms of what was measured, kept samples below dropped ones. Sizes are as in the files, on log axes."""
    kept = manifest["reason"].isna().to_numpy()
    width, height, brightness, contrast = (
        manifest[column].to_numpy(np.float64, na_value=np.nan)
        for column in ("width", "height", "brightness", "contrast")
    )
    drawn = []
    sides = np.concatenate([width, height])
    if len(np.unique(sides[~np.isnan(sides)])) > 1:
        low, high = math.floor(np.log2(np.nanmin(sides))), math.ceil(np.log2(np.nanmax(sides)))
        powers = range(low, high + 1, 1 + (high - low) // 7)
        ticks = {f"{2**power:,}": power for power in powers}
        drawn += [
            histogram("width", "pixels", np.log2(width), kept, (low, high), ticks, np.exp2),
            histogram("height", "pixels", np.log2(height), kept, (low, high), ticks, np.exp2),
        ]
        reach = min(4, max(1, math.ceil(np.nanmax(np.abs(np.log2(width / height))))))
        ticks = {
            f"{2 ** max(power, 0)}:{2 ** max(-power, 0)}": power
            for power in range(-reach, reach + 1)
            if reach < 3 or power % 2 == 0
        }
        drawn.append(
            histogram("aspect", "width : height", np.log2(width / height), kept, (-reach, reach), ticks, np.exp2)
        )
    levels = {str(level): level for level in (0, 64, 128, 192, 255)}
    drawn.append(histogram("brightness", "mean of levels", brightness, kept, (0, 255), levels))
    levels = {str(level): level for level in (0, 32, 64, 96, 127)}
    drawn.append(histogram("contrast", "standard deviation of levels", contrast, kept, (0, 127.5), levels))
    return [chart for chart in drawn if chart]


def histogram(
    title: str,
    unit: str,
    values: np.ndarray,
    kept: np.ndarray,
    reach: tuple[float, float],
    ticks: Mapping[str, float],
    back: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> dict[str, Any]:
    """One chart, in shares of its width and height; empty if nothing was measured. ``back`` leads from axis to unit."""
    known = ~np.isnan(values)
    if not known.any():
        return {}
    low, high = reach
    edges = np.linspace(low, high, BARS + 1)
    bars = [np.histogram(np.clip(values[part], low, high), edges)[0] for part in (known & kept, known & ~kept)]
    most = (bars[0] + bars[1]).max()
    middle, *ends = back(np.quantile(values[known], [0.5, 0.05, 0.95]))
    return {
        "title": title,
        "unit": unit,
        "bars": [(float(below / most), float(above / most)) for below, above in zip(*bars, strict=True)],
        "ticks": {label: (place - low) / (high - low) for label, place in ticks.items()},
        "note": f"median {middle:.3g}; nine in ten from {ends[0]:.3g} to {ends[1]:.3g}",
    }


def visible(text: str) -> str:
    """The text with every character that does not show itself spelt out: U+202E would turn around what follows."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in UNSEEN else c for c in text)


def shortened(text: str, length: int = 28) -> str:
    """Beginning and end of a long text, in at most ``length`` characters."""
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length - length // 2) :]}"


def share(count: int, total: int) -> str:
    """In per cent; neither 0 nor 100 unless it is."""
    percent = 100 * count / max(1, total)
    return "< 0.1 %" if 0 < percent < 0.1 else "> 99.9 %" if 99.9 < percent < 100 else f"{percent:.1f} %"


def hashed(style: str) -> str:
    """As a Content-Security-Policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


def embedded(pixels: np.ndarray, side: int) -> str:
    """A PNG of at most ``side`` pixels a side, as a URL."""
    picture, content = image.picture(pixels), io.BytesIO()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
ENVIRONMENT.filters |= {
    "visible": visible, "shortened": shortened, "share": share, "hash": hashed, "embedded": embedded,
    "number": "{:,}".format,
}  # fmt: skip
PAGE = ENVIRONMENT.get_template("report.jinja")
