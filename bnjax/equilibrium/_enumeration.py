"""Any number of actions, finitely many models, exactly: all vertices of two complexes.

A finite problem is a game between the agent, who wants ``sum_m mu[m] U[m, a]`` large, and
nature's best fit, which makes ``sum_a sigma[a] K[m, a]`` small: with finite divergences its
Berk-Nash equilibria are the Nash equilibria of the bimatrix game (U, -K). Best-fit sets only
grow where the pieces of the lower envelope over play meet, and sets of optimal actions only
grow where the pieces of the upper envelope over beliefs meet. So "is action a in Gamma(B)?"
is decided by the vertices of the first envelope that lie over Delta(B), with the vertices of
the second that believe only in models tied there; and so are the extreme equilibria.

A model that rules out something has a place only over play that avoids it. Hence every face
of the simplex of play has an envelope of its own, of the models that are finite on it, and
what holds in the *interior* of the face counts: a belief is justified there iff the vertices
at which its models are tied together play every action of the face, for then their average
does, in the interior.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..problem import ReducedForm
from ._codes import Certainty
from ._results import Equilibria, Rationalizable
from ._tolerance import Tolerance
from ._verify import (
    largest_residual,
    others_fit,
    payoff_range,
    pure_stability,
    repeats,
    residual,
    rounding,
)

# More systems of equations than this are not enumerated.
MAX_SYSTEMS = 40_000
# Vertices kept, of each face and of beliefs; more are counted, and then nothing is excluded.
_MAX_PLAY_VERTICES, _MAX_BELIEF_VERTICES = 96, 768
# Points at which the same constraints are tight and which are closer than so many times the
# rounding are one vertex, found by several systems.
_CLOSE = 16


class _Face(NamedTuple):
    """Vertices of the best-fit complex over faces with equally many actions."""

    actions: np.ndarray  # [F, k] which actions the face plays
    play: Array  # [F, V, A]
    tied: Array  # [F, V, M]
    valid: Array  # [F, V]
    overflow: Array  # []


class _Beliefs(NamedTuple):
    """Vertices of the best-reply complex over beliefs."""

    belief: Array  # [Q, M]
    optimal: Array  # [Q, A]
    valid: Array  # [Q]
    overflow: Array  # []


def num_systems(num_actions: int, num_models: int) -> int:
    """How many small systems of equations an enumeration solves, over play and over beliefs."""
    play = sum(
        math.comb(num_actions, k) * math.comb(k + num_models, k) for k in range(1, num_actions + 1)
    )
    return play + math.comb(num_actions + num_models, num_actions)


def solve_by_enumeration(
    reduced: ReducedForm,
    theta: Float[Array, "models parameters"],
    exploration: Float[Array, ""],
    max_equilibria: int,
    tolerance: Tolerance,
) -> tuple[Equilibria, Rationalizable]:
    """Extreme equilibria and the rationalizable set, from all vertices.

    Parameters
    ----------
    reduced : the problem as it is without exploration.
    theta : [M, D] parameters, for reporting best fits.
    exploration : tremble.
    max_equilibria : rows of the answer. A segment of equilibria is one row, and there is one
        for each belief vertex: where the best fit changes, the next row begins. An end that is
        no equilibrium itself (with infinite divergences segments can be open) is moved inwards
        by ``tolerance.play``. A continuum of higher dimension is listed by a segment between two
        of its extreme points, and then the list is not complete.
    tolerance : what counts as a tie.
    """
    reduced = reduced.explored(exploration)
    num_actions = reduced.kl.shape[1]
    beliefs = _belief_vertices(reduced, tolerance)
    faces = [_face_vertices(reduced, k, tolerance) for k in range(1, num_actions + 1)]
    meets = jnp.concatenate([_meets_interior(face, beliefs) for face in faces])  # [faces, Q]
    plays = np.concatenate(
        [(face.actions[:, :, None] == np.arange(num_actions)).any(1) for face in faces]
    )
    overflow = beliefs.overflow | jnp.any(jnp.stack([face.overflow for face in faces]))
    # A tie that only the limit of play on a face reaches, where other models are refuted, counts
    # at any positive tolerance: play close to the limit is within it (the rule of `certify`).
    nearly = jnp.concatenate([_covers(face, beliefs).any(1) for face in faces])
    nearly = jnp.where(tolerance.fit > 0, nearly, meets)
    possible = _rationalizable(nearly, plays, beliefs, overflow, tolerance)
    found = _equilibria(
        reduced, theta, exploration, faces, plays, meets, beliefs, max_equilibria, tolerance
    )
    # A vertex that was left out may have been the belief that a pure equilibrium takes.
    complete, lost = found.complete & ~overflow, overflow & ~found.pure
    return dataclasses.replace(found, complete=complete, pure_undecided=lost), possible


def _solve_systems(matrix: Float[Array, "systems n n"]) -> tuple[Array, Array]:
    """Solve ``matrix @ x = (1, 0, ..., 0)`` for many small systems, and say which are regular.

    Gauss-Jordan elimination with partial pivoting, all systems in step: far faster than a
    LAPACK call for each.
    """
    size = matrix.shape[-1]
    scale = jnp.max(jnp.abs(matrix), -1, keepdims=True)
    rhs = jnp.zeros((*matrix.shape[:-1], 1), matrix.dtype).at[..., 0, 0].set(1)
    rows = jnp.concatenate([matrix, rhs], -1) / jnp.where(scale > 0, scale, 1)
    # A pivot is lost in rounding well below the resolution of probabilities.
    least = 16 * jnp.finfo(matrix.dtype).eps
    regular = jnp.ones(matrix.shape[:-2], bool)
    for column in range(size):
        column_values = jnp.abs(rows[..., column:, column])
        pivot = column + jnp.argmax(column_values, -1)
        regular &= column_values.max(-1) > least
        order = jnp.arange(size)
        swapped = jnp.where(
            order == column,
            pivot[..., None],
            jnp.where(order == pivot[..., None], column, order),
        )
        rows = jnp.take_along_axis(rows, swapped[..., None], axis=-2)
        head = rows[..., column, :]
        divisor = head[..., column : column + 1]
        head = head / jnp.where(divisor != 0, divisor, 1)
        rows = rows - rows[..., :, column : column + 1] * head[..., None, :]
        rows = rows.at[..., column, :].set(head)
    return rows[..., -1], regular


def _compact(
    points: Float[Array, "candidates n"],
    tight: Bool[Array, "candidates constraints"],
    valid: Bool[Array, " candidates"],
    num: int,
) -> tuple[Array, Array, Array]:
    """Indices of up to ``num`` different valid points, which of them count, and overflow.

    A vertex is the only point at which its constraints are tight. So points are the same if
    equally many say so and rounding explains what is left between them, and neighbours that
    differ in what is tied are never merged, however close they are.
    """
    # Sorted by what is tight, and then along a line in general position, equal points become
    # neighbours.
    words = np.random.default_rng(0).integers(1, 2**32, tight.shape[1], dtype=np.uint32)
    label = jnp.where(tight, jnp.asarray(words), jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    line = np.sqrt(np.arange(2, points.shape[1] + 2))
    key = jnp.where(valid, points @ jnp.asarray(line, points.dtype), jnp.inf)
    order = jnp.lexsort((key, label))
    ordered, counts, said = points[order], valid[order], tight[order]
    same = jnp.max(jnp.abs(ordered - jnp.roll(ordered, 1, axis=0)), -1) <= _CLOSE * rounding(
        points.dtype
    )
    same &= jnp.all(said == jnp.roll(said, 1, axis=0), -1)
    new = counts & ~(same & jnp.roll(counts, 1)).at[0].set(False)
    chosen = jnp.argsort(~new, stable=True)[: min(num, points.shape[0])]
    return order[chosen], new[chosen], new.sum() > num


def _face_vertices(reduced: ReducedForm, size: int, tolerance: Tolerance) -> _Face:
    """Vertices of the lower envelope over every face that plays ``size`` actions."""
    num_models, num_actions = reduced.kl.shape
    actions = np.array(list(itertools.combinations(range(num_actions), size)))
    # Tight constraints: actions of the face that are not played (the first `size` numbers),
    # and models that fit best; at least one of those.
    tight = np.array(list(itertools.combinations(range(size + num_models), size)))
    tight = tight[(tight >= size).any(1)]
    chosen = (tight[:, :, None] == size + np.arange(num_models)).any(1)
    dtype = reduced.kl.dtype

    def one_face(columns):
        kl = reduced.kl[:, columns]
        usable = reduced.support & ~reduced.ruled_out[:, columns].any(1)
        unplayed = jnp.eye(size, size + 1, dtype=dtype)
        fits = jnp.concatenate([kl, -jnp.ones((num_models, 1), dtype)], 1)
        rows = jnp.concatenate([unplayed, fits])
        total = jnp.ones((len(tight), 1, size + 1), dtype).at[:, :, -1].set(0)
        solution, regular = _solve_systems(jnp.concatenate([total, rows[tight]], 1))
        play = solution[:, :-1]
        feasible = regular & jnp.all(play >= -rounding(dtype), -1)
        play = jnp.where(play > rounding(dtype), play, 0)
        play = play / jnp.where(feasible, play.sum(-1), 1)[:, None]
        value = jnp.where(usable, _product(play, kl.T), jnp.inf)
        tied = usable & (value <= value.min(-1, keepdims=True) + tolerance.fit)
        feasible &= jnp.all(tied | ~chosen, -1)
        said = jnp.concatenate([tied, play > 0], 1)
        index, valid, overflow = _compact(play, said, feasible, _MAX_PLAY_VERTICES)
        full = jnp.zeros((len(index), num_actions), dtype).at[:, columns].set(play[index])
        return full, tied[index] & valid[:, None], valid, overflow

    play, tied, valid, overflow = jax.vmap(one_face)(jnp.asarray(actions))
    return _Face(actions, play, tied, valid, overflow.any())


def _product(left: Array, right: Array) -> Array:
    """Matrix product in full precision, also where a GPU would rather not."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _belief_vertices(reduced: ReducedForm, tolerance: Tolerance) -> _Beliefs:
    """Vertices of the upper envelope of payoffs over beliefs."""
    num_models, num_actions = reduced.kl.shape
    dtype = reduced.kl.dtype
    slack = tolerance.payoff * payoff_range(reduced)
    beliefs, actions = [jnp.eye(num_models, dtype=dtype)], [None]
    for size in range(2, min(num_models, num_actions) + 1):
        models = list(itertools.combinations(range(num_models), size))
        replies = list(itertools.combinations(range(num_actions), size))
        pairs = itertools.product(models, replies)
        support, tied = (np.array(part) for part in zip(*pairs, strict=True))
        payoffs = reduced.payoffs[support[:, None, :], tied[:, :, None]]  # [pairs, reply, model]
        minus = -jnp.ones((*payoffs.shape[:-1], 1), dtype)
        total = jnp.ones((len(support), 1, size + 1), dtype).at[:, :, -1].set(0)
        # Payoffs are measured from their own mean: only differences matter for who is tied.
        level = payoffs.mean((-2, -1), keepdims=True)
        system = jnp.concatenate([total, jnp.concatenate([payoffs - level, minus], -1)], 1)
        solution, regular = _solve_systems(system)
        weight = solution[:, :-1]
        feasible = regular & jnp.all(weight >= -rounding(dtype), -1)
        weight = jnp.where(weight > rounding(dtype), weight, 0)
        weight = weight / jnp.where(feasible, weight.sum(-1), 1)[:, None]
        weight = jnp.where(feasible[:, None], weight, jnp.nan)
        rows = jnp.arange(len(support))[:, None]
        beliefs.append(jnp.zeros((len(support), num_models), dtype).at[rows, support].set(weight))
        actions.append((tied[:, :, None] == np.arange(num_actions)).any(1))
    belief = jnp.concatenate(beliefs)
    feasible = ~jnp.isnan(belief).any(-1)
    belief = jnp.where(feasible[:, None], belief, 0)
    # A belief in models outside the support is no belief of this agent.
    feasible &= ~jnp.any((belief > 0) & ~reduced.support, -1)
    expected = _product(belief, reduced.payoffs)
    optimal = expected >= expected.max(-1, keepdims=True) - slack
    claimed = np.concatenate(
        [np.zeros((num_models, num_actions), bool)] + [part for part in actions if part is not None]
    )
    feasible &= jnp.all(optimal | ~claimed, -1)
    tight = jnp.concatenate([optimal, belief > 0], 1)
    index, valid, overflow = _compact(belief, tight, feasible, _MAX_BELIEF_VERTICES)
    return _Beliefs(belief[index], optimal[index] & valid[:, None], valid, overflow)


def _covers(face: _Face, beliefs: _Beliefs) -> Bool[Array, "faces vertices beliefs"]:
    """At which vertices everything that a belief believes in is tied."""
    believed = (beliefs.belief > 0).astype(face.play.dtype)
    missing = _product((~face.tied).astype(face.play.dtype), believed.T)
    return (missing < 0.5) & face.valid[:, :, None] & beliefs.valid


def _meets_interior(face: _Face, beliefs: _Beliefs) -> Bool[Array, "faces beliefs"]:
    """Whether some play of *all* actions of a face makes a belief a belief in best fits."""
    covers = _covers(face, beliefs).astype(face.play.dtype)
    plays = (face.play > 0).astype(face.play.dtype)
    played = jnp.einsum("fvq,fva->fqa", covers, plays) > 0.5
    return jnp.all(jnp.take_along_axis(played, jnp.asarray(face.actions)[:, None], -1), -1)


def _rationalizable(
    meets: Array, plays: np.ndarray, beliefs: _Beliefs, overflow: Array, tolerance: Tolerance
) -> Rationalizable:
    """Iterate Gamma, which only asks which faces still lie in the set."""
    dtype = beliefs.belief.dtype
    justified = _product(meets.astype(dtype), beliefs.optimal.astype(dtype)) > 0.5  # [face, A]
    mask = jnp.ones(plays.shape[1], bool)
    for _ in range(plays.shape[1]):
        inside = ~jnp.any(plays & ~mask, axis=1)
        mask = mask & jnp.any(justified & inside[:, None], axis=0)
    out = jnp.where(overflow, int(Certainty.UNDECIDED), int(Certainty.OUT))
    certainty = jnp.where(mask, int(Certainty.IN), out)
    return Rationalizable(mask | overflow, certainty, tolerance.fit, tolerance.payoff)


def _equilibria(
    reduced: ReducedForm,
    theta: Array,
    exploration: Array,
    faces: list[_Face],
    plays: np.ndarray,
    meets: Array,
    beliefs: _Beliefs,
    max_equilibria: int,
    tolerance: Tolerance,
) -> Equilibria:
    """One row for each belief vertex and largest face that are an equilibrium together."""
    num_actions = plays.shape[1]
    optimal_on_face = ~jnp.any(plays[:, None] & ~beliefs.optimal[None], -1)
    holds = meets & optimal_on_face  # [faces, Q]
    # The same belief on a larger face says more: its segment ends in the smaller one.
    larger = (plays[:, None] & ~plays[None]).sum(-1) == 0
    larger &= ~np.eye(len(plays), dtype=bool)
    dominated = jnp.asarray(larger, beliefs.belief.dtype) @ holds.astype(beliefs.belief.dtype) > 0.5
    # Another row may well turn out to be the same strategy under another belief.
    num_rows = min(4 * max_equilibria, holds.size)
    flat = (holds & ~dominated).ravel()
    chosen = jnp.argsort(~flat, stable=True)[:num_rows]
    valid = flat[chosen]
    face, belief = chosen // holds.shape[1], chosen % holds.shape[1]

    play, covers = _stack_vertices(faces, beliefs)

    most = largest_residual(reduced, tolerance)

    def segment(f, q):
        covering = covers[f, :, q]
        mu = beliefs.belief[q]

        def farthest(point):
            distance = jnp.max(jnp.abs(play[f] - point), -1)
            return play[f, jnp.argmax(jnp.where(covering, distance, -1.0))]

        # Vertices of the complex also lie between the ends.
        end = farthest(play[f, jnp.argmax(covering)])
        start = farthest(end)
        along = end - start
        length = jnp.sum(along**2)
        share = jnp.sum((play[f] - start) * along, -1) / jnp.where(length > 0, length, 1.0)
        beside = jnp.max(jnp.abs(play[f] - start - share[:, None] * along), -1)
        on_line = jnp.all((beside <= _CLOSE * rounding(play.dtype)) | ~covering)
        weight = covering.astype(play.dtype)
        centre = jnp.sum(weight[:, None] * play[f], 0) / jnp.maximum(weight.sum(), 1)

        def closed(point):
            # Where an action is no longer played, a model that only this action refuted may be
            # the best fit: then the end does not belong to the segment.
            gap = jnp.max(jnp.abs(centre - point))
            share = jnp.minimum(tolerance.play / jnp.where(gap > 0, gap, 1.0), 0.5)
            inside = point + share * (centre - point)
            return jnp.where(residual(reduced, point, mu) <= most, point, inside)

        start, end = closed(start), closed(end)
        left_over = jnp.maximum(residual(reduced, start, mu), residual(reduced, end, mu))
        return start, end, left_over, on_line

    start, end, left_over, on_line = jax.vmap(segment)(face, belief)
    # A continuum of two dimensions has more in it than the segment that stands for it.
    listed = jnp.all(((left_over <= most) & on_line) | ~valid)
    valid &= left_over <= most
    valid &= ~repeats(start, end, valid)
    order = jnp.argsort(~valid, stable=True)[:max_equilibria]
    start, end, valid_rows = start[order], end[order], valid[order]
    mu = jnp.where(valid_rows[:, None], beliefs.belief[belief[order]], 0)
    is_pure = valid_rows & (jnp.max(start, -1) >= 1) & jnp.all(start == end, -1)
    tied = jax.vmap(lambda sigma, belief: others_fit(reduced, sigma, belief, tolerance))
    pure = jnp.any(holds[:num_actions], axis=1)  # the first faces are the single actions
    return Equilibria(
        strategy=start,
        strategy_end=end,
        realised=(1 - exploration) * start + exploration / num_actions,
        belief=mu,
        atoms=None,
        atom_weight=None,
        best_fit=jnp.sum(mu[:, :, None] * theta, 1),
        others_fit=valid_rows & tied(start, mu),
        is_pure=is_pure,
        stability=jnp.where(is_pure, pure_stability(reduced, tolerance)[start.argmax(-1)], 0),
        absorbing=is_pure,  # if it teaches nothing, see `solve`
        residual=jnp.where(valid_rows, left_over[order], 0.0),
        valid=valid_rows,
        pure=pure,
        complete=(flat.sum() <= num_rows) & (valid.sum() <= max_equilibria) & listed,
        tol_fit=tolerance.fit,
        tol_payoff=tolerance.payoff,
    )


def _stack_vertices(faces: list[_Face], beliefs: _Beliefs) -> tuple[Array, Array]:
    """Play and covering of all faces in one array, padded to the most vertices of any."""
    most = max(face.play.shape[1] for face in faces)

    def pad(array):
        return jnp.pad(array, ((0, 0), (0, most - array.shape[1]), (0, 0)))

    play = jnp.concatenate([pad(face.play) for face in faces])
    return play, jnp.concatenate([pad(_covers(face, beliefs)) for face in faces])
