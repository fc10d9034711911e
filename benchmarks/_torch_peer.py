"""Populations of Bayesian learners in PyTorch on the CPU: the blocked algorithm, eagerly.

Perfect memory, categorical consequences, best response (ties: the first). Agents are the last
dimension of most arrays; weights are [agents, M], because a row of likelihoods that is looked up
is then contiguous. Threads take a share of the agents each: PyTorch's own threads would share every
operation, which are too small for that, and cannot be told to flush denormal numbers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from . import numpy_baseline as baseline

_HELD = 64  # observations of an agent that wait until they are counted


def simulate(
    problem: baseline.Categorical,
    seed: int,
    *,
    num_agents: int,
    num_steps: int,
    num_threads: int = 1,
    device: str = "cpu",
) -> baseline.Result:
    """Simulate a population in single precision; arguments as for `numpy_baseline.simulate`.

    On another ``device`` than the CPU one thread simulates all.
    """
    if device != "cpu":
        with torch.inference_mode(), torch.device(device):
            return _simulate(problem, seed, num_agents, num_steps, device)

    def share(part: int) -> baseline.Result:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        size = num_agents * (part + 1) // num_threads - num_agents * part // num_threads
        with torch.inference_mode():
            return _simulate(problem, seed * num_threads + part, size, num_steps)

    with ThreadPoolExecutor(num_threads) as pool:
        return baseline.joined(list(pool.map(share, range(num_threads))))


def _simulate(
    problem: baseline.Categorical, seed: int, num_agents: int, num_steps: int, device: str = "cpu"
) -> baseline.Result:
    def there(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    problem = baseline.Categorical(*(np.asarray(x, np.float32) for x in problem))
    num_actions, num_consequences = problem.probs.shape
    policy = baseline.BestResponse()
    table, log_size = policy.table(problem.payoffs())
    log_ratio, ruled_out = problem.log_ratios()
    plan = baseline.plan_blocks(log_ratio, ruled_out, flushes=True)
    allowed = np.where(ruled_out, -np.inf, log_ratio)
    factors = there(np.exp(allowed - allowed.max(1, keepdims=True)))
    kills = there(np.asarray(ruled_out.any(1))) if ruled_out.any() else None
    out = there(ruled_out.astype(np.float32))
    log = there(log_ratio)
    features = there(table)
    num_features = table.shape[1]
    ones = np.ones((len(table), 1), np.float32)
    wanted = there(np.concatenate([table, np.abs(log_ratio).T, ones], axis=1))
    prior = there(problem.log_prior + log_size)
    cdf = there(np.cumsum(problem.probs, axis=1) / problem.probs.sum(1, keepdims=True))
    tolerance = policy.tolerance_in(np.dtype(np.float32))
    rounding = 0.5 * (len(log_ratio) + 6) * float(np.finfo(np.float32).eps)
    rng = torch.Generator(device).manual_seed(seed)

    num_codes = num_actions * num_consequences
    counts = torch.zeros(num_agents, num_codes)
    first = torch.arange(num_agents) * num_codes
    held = torch.empty((_HELD, num_agents), dtype=torch.int64)
    numbers = torch.empty((_HELD, num_agents))
    intended = torch.zeros(num_agents, dtype=torch.int64)
    since = torch.zeros(num_agents, dtype=torch.int32)
    switches = torch.zeros(num_agents, dtype=torch.int32)
    weight, buffer = torch.empty((2, num_agents, len(table))).unbind(0)
    num_held = 0

    def count() -> None:
        nonlocal num_held
        if num_held:
            flat = torch.bincount(held[:num_held].reshape(-1), minlength=counts.numel())
            counts.add_(flat.reshape(counts.shape))
            num_held = 0

    def refresh() -> tuple[torch.Tensor, torch.Tensor]:
        count()
        torch.addmm(prior, counts, log, out=weight)
        if kills is not None:
            weight.masked_fill_((counts > 0).float() @ out > 0, -torch.inf)
        weight.sub_(weight.amax(1, keepdim=True).clamp_(min=-1e38)).exp_()
        sums = weight @ wanted
        size = (counts * sums[:, num_features:-1]).sum(1)
        weight.mul_(plan.top)
        return sums[:, :num_features], tolerance + rounding * size / sums[:, -1]

    def intend(means: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
        half = num_features // 2
        gain, size = means[:, :half], means[:, half:]
        if half == 1:
            return (gain[:, 0] > slack * size[:, 0]).long()
        top, best = gain.max(1, keepdim=True)
        margin = size + size.gather(1, best)
        tied = top - gain <= slack[:, None] * margin
        tied.scatter_(1, best, value=True)
        return tied.byte().argmax(1)

    half, fourth = baseline.quarters(num_steps)
    marks: dict[int, torch.Tensor] = {}
    before = torch.zeros_like(counts)
    left, slack = 0, torch.zeros(num_agents)
    for time in range(num_steps):
        if time % _HELD == 0:
            torch.rand(numbers.shape, generator=rng, out=numbers)
        if time == half:
            count()
            before = counts.clone()
        if time in (half, fourth):
            marks[time] = switches.clone()
        if left == 0:
            means, slack = refresh()
            left = plan.steps
        else:
            means = weight @ features
        action = intend(means, slack)
        code = action * num_consequences
        number = numbers[time % _HELD]
        for column in cdf[:, :-1].unbind(1):
            code += number >= column[action]
        if time > 0:
            changed = action != intended
            since.masked_fill_(changed, time)
            switches += changed
        intended = action
        torch.add(code, first, out=held[num_held])
        num_held += 1
        left -= 1
        if kills is not None and bool(kills[code].any()):
            # Rare: whoever saw for the first time what a model rules out needs new weights.
            left = 0
        if num_held == _HELD:
            count()
        if left > 0:
            torch.index_select(factors, 0, code, out=buffer)
            weight.mul_(buffer)
    count()
    belief = torch.addmm(there(problem.log_prior), counts, log)
    if kills is not None:
        belief.masked_fill_((counts > 0).float() @ out > 0, -torch.inf)
    shape = num_agents, num_actions, num_consequences
    played, early = counts.reshape(shape).sum(2), before.reshape(shape).sum(2)
    third, last = marks[fourth] - marks[half], switches - marks[fourth]
    return baseline.Result(
        frequency=(played / num_steps).cpu().numpy(),
        late_frequency=((played - early) / (num_steps - half)).cpu().numpy(),
        log_belief=torch.log_softmax(belief, 1).cpu().numpy(),
        mean_payoff=(counts @ there(problem.payoff.ravel()) / num_steps).cpu().numpy(),
        intended=intended.cpu().numpy(),
        since=since.cpu().numpy(),
        switches=torch.stack([third, last], 1).cpu().numpy(),
    )
