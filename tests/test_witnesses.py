"""Certificates against a verifier that knows only the definitions."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest

import bnjax as bn
from tests.oracles import witness as oracle
from tests.oracles.random_problems import KINDS, random_problem, reduced_form
from tests.test_certify import Reduced

# Solvers are run at every size here; as users run them, in `test_equilibria` and `test_diagram`.
pytestmark = pytest.mark.usefixtures("quick_compilation")

TERMS = {"exploration": 0.0, "tol_fit": 1e-9, "tol_payoff": 1e-9}


def certified(seed, kind, num_actions, **terms):
    """A certificate, and all that its verifier gets to see of the problem."""
    terms = TERMS | terms
    arrays = random_problem(seed, kind, num_actions=num_actions, num_models=6)
    reduced = reduced_form(arrays)
    certificate = bn.certify(Reduced(**reduced), **terms)
    return certificate, oracle.case(**reduced, **terms)


def faults(given, certificate, witnesses=None):
    inside = certificate.certainty == bn.Certainty.IN
    return oracle.faults(given, witnesses or certificate.witnesses, inside.tolist())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_actions", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_witnesses_hold(kind, num_actions, seed):
    terms = [{}, {"exploration": 0.1}, {"tol_fit": 2e-6, "tol_payoff": 1e-5}][seed % 3]
    certificate, given = certified(seed, kind, num_actions, **terms)
    assert certificate.mask.any()
    assert faults(given, certificate) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["generic", "infinite", "ties"])
def test_wrong_witnesses_are_found_out(kind, seed):
    certificate, given = certified(seed, kind, 3)
    actions, models = range(3), range(6)
    for a, witness in enumerate(certificate.witnesses):
        if witness is None:
            continue

        def wrong(a=a, witness=witness, **change):
            changed = list(certificate.witnesses)
            changed[a] = dataclasses.replace(witness, **change)
            return faults(given, certificate, changed)

        half = Fraction(1, 2)
        assert wrong(strategy=tuple(half * p for p in witness.strategy))
        assert wrong(belief=tuple(half * p for p in witness.belief))
        assert wrong(strategy=(Fraction(2), Fraction(-1), Fraction(0)))
        assert wrong(belief=(*witness.belief, Fraction(0)))
        assert wrong(action=(a + 1) % 3)
        # A belief in one model passes if and only if floats say that it should.
        strategy = np.array(witness.strategy, float)
        kl, payoffs = (np.array(x, float) for x in (given.kl, given.payoffs))
        fit = np.where((np.array(given.ruled_out) & (strategy > 0)).any(1), np.inf, kl @ strategy)
        for m in models:
            certain = tuple(Fraction(int(m == k)) for k in models)
            loss = payoffs[m].max() - payoffs[m, a]
            right = fit[m] <= fit.min() + 1e-9 and loss <= 1e-9 * np.ptp(payoffs)
            assert bool(wrong(belief=certain)) != right
        # Nor may a witness lean on what is excluded, whatever it proves of its own action.
        for b in actions:
            if certificate.witnesses[b] is None:
                pure = tuple(Fraction(int(b == k)) for k in actions)
                assert any("not IN" in text for text in wrong(strategy=pure))
    assert faults(given, certificate, [None] * 3)


def test_terms_matter():
    """The witness of a tie at the limit of play that refutes holds at its tolerance, not at 0."""
    kl, payoffs = [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    ruled_out = [[False, True], [False, False], [False, False]]
    certificate = bn.certify(Reduced(kl, payoffs, ruled_out))
    arrays = {"kl": kl, "ruled_out": ruled_out, "payoffs": payoffs, "support": [True] * 3}
    assert faults(oracle.case(**arrays, **TERMS), certificate) == []
    for change in ({"tol_fit": 0.0}, {"exploration": 0.1}):
        assert faults(oracle.case(**arrays, **TERMS | change), certificate)
    assert faults(oracle.case(**arrays | {"support": [True, False, True]}, **TERMS), certificate)
