"""What a comparison says in words: from intervals alone, never from means."""

from __future__ import annotations

from collections.abc import Mapping

from segdistill.comparison.options import EQUAL_TIME, PLATEAU, PSEUDO
from segdistill.comparison.statistics import Difference, GapClosure
from segdistill.progress import counted

_WORDS = {
    "better": "better than the student alone",
    "worse": "worse than the student alone",
    "no difference seen": "no difference seen",
}

#: How long each longer training of the student alone is, in words.
HOW_LONG = {EQUAL_TIME: "for as many seconds as the slowest method", PLATEAU: "until more epochs no longer helped"}

#: What a student is trained on with `PSEUDO`, in words.
ON_PSEUDO_LABELS = "on labels and on its teacher's pseudo-labels of the unlabelled images"

_ONE_SEED = "With one seed the intervals say nothing about other seeds: another seed may say otherwise."


def points(difference: Difference) -> str:
    """A difference with its interval.

    Example:
        >>> from segdistill.comparison.statistics import Spread
        >>> one = Spread((70.0,), 70.0, None)
        >>> points(Difference(1.2, -0.25, 2.5, 0.95, one, one, images=101))
        '+1.20 (95 % interval -0.25 to +2.50)'
    """
    return (
        f"{difference.difference:+.2f} ({100 * difference.level:g} % interval {difference.low:+.2f} to "
        f"{difference.high:+.2f})"
    )


def as_cell(difference: Difference | None) -> str:
    """A difference in a table's cell, its interval below; a dash where there is none."""
    if difference is None:
        return "–"
    return f"{difference.difference:+.2f}\n{difference.low:+.2f} to {difference.high:+.2f}"


def seeds_of(difference: Difference) -> int:
    """Of how many seeds each mean is taken, of the one that has fewer."""
    return min(len(difference.candidate.runs), len(difference.baseline.runs))


def length_told(number: int, unit: str) -> str:
    """A number of epochs or steps in words.

    Example:
        >>> length_told(1, "epochs"), length_told(3, "steps")
        ('1 epoch', '3 steps')
    """
    return counted(number, unit.removesuffix("s"))


def closure(gap: GapClosure | None) -> str:
    """How much of the gap was closed, with its interval; a dash where there is no gap to close.

    Example:
        >>> closure(None)
        '-'
    """
    if gap is None or gap.closed is None:
        return "-"
    return f"{gap.closed:.0f} % ({gap.low:.0f} to {gap.high:.0f})"


def row_verdict(difference: Difference | None, seeds: int) -> str:
    """What a row's interval says.

    Args:
        difference: to the baseline; None where it cannot be told.
        seeds: of how many seeds each mean is taken.
    """
    if difference is None:
        return "cannot be told yet"
    return _WORDS[difference.verdict] + ("" if seeds > 1 else "; one seed, no interval over seeds")


def headline(
    *,
    missing: int,
    failed: int,
    teacher: Difference | None,
    differences: Mapping[str, Difference],
    against: Mapping[str, Mapping[str, Difference]],
    gaps: Mapping[str, GapClosure],
    longer: Mapping[str, Difference],
) -> str:
    """The few sentences at the top of a comparison; what speaks against all of it comes first.

    Args:
        missing: cells that are neither finished nor failed.
        failed: cells that failed.
        teacher: the teacher's mIoU minus the baseline's; None where one of them is missing.
        differences: mIoU of each distillation method minus the baseline's.
        against: of each method, the same against each other training without a method, by its name in `ALONE`.
        gaps: how much of the gap to the teacher each closed.
        longer: mIoU of each longer training of the student alone minus the baseline's.
    """
    sentences = _against_the_teacher(teacher)
    if missing or failed:
        what = [f"{counted(missing, 'run')} not finished yet"] * bool(missing)
        what += [f"{counted(failed, 'run')} failed"] * bool(failed)
        sentences.append(f"{' and '.join(what)}; what follows is about the others.")
    if not differences:
        return " ".join([*sentences, "No method can be compared with the student alone yet."])
    ordered = sorted(differences, key=lambda method: -differences[method].difference)
    better = [method for method in ordered if differences[method].verdict == "better"]
    worse = [method for method in ordered if differences[method].verdict == "worse"]
    best = (better or ordered)[0]
    seeds = seeds_of(differences[best])
    images = differences[best].images
    over = f"{seeds} seeds and " * (seeds > 1) + counted(images, "image")
    told = f"{points(differences[best])} points of mIoU, over {over}"
    if better:
        gap = gaps.get(best)
        way = "" if gap is None or gap.closed is None else f"; it closes {closure(gap)} of the gap to the teacher"
        sentences.append(f"{best} is better than the same student trained alone: {told}{way}.")
        if better[1:]:
            sentences.append(f"Also better: {', '.join(better[1:])}.")
    else:
        sentences.append(
            f"No method is seen to be better than the same student trained alone; the largest difference is {best}'s: "
            f"{told}."
        )
        sentences += [
            f"The student alone trained {HOW_LONG[name]} is better: {points(one)}."
            for name, one in longer.items()
            if one.verdict == "better"
        ]
    if worse:
        sentences.append(f"Worse than the student alone: {', '.join(worse)}.")
    if better:
        sentences += [_held_against(best, name, one) for name, one in against.get(best, {}).items()]
    if seeds == 1:
        sentences.append(_ONE_SEED)
    return " ".join(sentences)


def recommendation(
    method: str,
    difference: Difference,
    *,
    length: int,
    full: int,
    unit: str,
    teacher: Difference | None,
    against: Mapping[str, Difference],
) -> tuple[str, str]:
    """What to train, and why: what the intervals of the longest runs allow, and no more.

    Args:
        method: the best of the methods.
        difference: its mIoU minus that of the student alone.
        length: for which both were trained.
        full: that of the whole recipe.
        unit: of both, "epochs" or "steps".
        teacher: the teacher's mIoU minus that of the student alone; None where it is not known.
        against: the method's mIoU minus that of each other training without a method that was tried, by name.

    Returns:
        The method, ``"none"``, or the name of another training without a method that does as well; and the
        sentences, whatever speaks against all of it first.
    """
    sentences = _against_the_teacher(teacher)
    seeds = seeds_of(difference)
    over = f"{seeds} seeds and " * (seeds > 1) + counted(difference.images, "image")
    told = f"{points(difference)} points of mIoU, over {over}, after {length_told(length, unit)} each"
    chosen = "none"
    as_good = [name for name, one in against.items() if one.verdict != "better"]
    if difference.verdict == "better" and as_good:
        chosen = as_good[-1]
        sentences.append(
            f"Train the student {ON_PSEUDO_LABELS}: {method} is better than the student alone, {told}, but not seen "
            "to be better than training on pseudo-labels."
            if chosen == PSEUDO
            else f"Train the student alone, for longer: {method} is better at equal {unit}, {told}, but the student "
            f"alone, trained {HOW_LONG[chosen]}, does as well."
        )
    elif difference.verdict == "better":
        chosen = method
        sentences.append(f"Train with the method {method}: it is better than the same student trained alone, {told}.")
    elif difference.verdict == "worse":
        sentences.append(f"Train the student alone: {method}, the best of the methods, is worse, {told}.")
    else:
        sentences.append(
            f"Train the student alone: no difference to {method}, the best of the methods, was seen, {told}; as far as "
            "these runs show, the labels alone do as well."
        )
    if difference.verdict == "better":
        sentences += [_held_against(method, name, one) for name, one in against.items()]
    if length < full:
        sentences.append(
            f"The recipe has {length_told(full, unit)}, which were not reached: longer training may say otherwise."
        )
    if seeds == 1:
        sentences.append(_ONE_SEED)
    return chosen, " ".join(sentences)


def _against_the_teacher(teacher: Difference | None) -> list[str]:
    """What speaks against the teacher, a sentence or none."""
    if teacher is None or teacher.verdict == "better":
        return []
    scores = f"(mIoU {teacher.candidate.mean:.2f} against {teacher.baseline.mean:.2f})"
    is_it = "is worse than" if teacher.verdict == "worse" else "is not seen to be better than"
    return [f"The teacher {is_it} the student trained alone {scores}: there is no gap to close."]


def _held_against(method: str, reference: str, difference: Difference) -> str:
    seen = {"better": "better too", "worse": "worse", "no difference seen": "not seen to be better"}
    who = f"trained {ON_PSEUDO_LABELS}" if reference == PSEUDO else f"alone trained {HOW_LONG[reference]}"
    return f"Against the student {who}, {method} is {seen[difference.verdict]}: {points(difference)}."
