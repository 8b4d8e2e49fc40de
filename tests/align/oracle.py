"""Alignment sample by sample and step by step: slow, and plain enough to be believed."""

from fogx.align.policy import Align


def take(step, stamps, policy):
    """Return the (number, age) that one step takes of samples in the order in which they came; number −1 for none."""
    limit = None if policy.within_s is None else round(policy.within_s * 1e9)
    best = None
    for number, stamp in enumerate(stamps):
        distance = abs(step - stamp)
        if policy.kind == "hold" and stamp <= step:
            rank = (-stamp, -number)
        elif policy.kind == "next" and stamp >= step:
            rank = (stamp, -number)
        elif policy.kind == "nearest":
            rank = (distance, stamp, -number)
        elif policy.kind == "exact" and stamp == step:
            rank = (0, 0, -number)
        else:
            continue
        if best is None or rank < best[0]:
            best = rank, number, distance
    if best is None or (limit is not None and best[2] > limit):
        return -1
    return best[1]


def steps_of(streams, policy: Align):
    """Return the times of the steps of {name: stamps}."""
    stamps = sorted({stamp for values in streams.values() for stamp in values})
    if not stamps:
        return []
    if policy.reference:
        return sorted(set(streams[policy.reference]))
    if policy.union:
        return stamps
    if policy.rate_hz:
        found, k = [], 0
        while stamps[0] + round(k * 1e9 / policy.rate_hz) <= stamps[-1]:
            found.append(stamps[0] + round(k * 1e9 / policy.rate_hz))
            k += 1
        return found
    actions = [name for name in streams if name == "action" or name.startswith("action/") if streams[name]]
    names = ["action"] if "action" in actions else actions or list(streams)
    most = max(len(streams[name]) for name in names)
    return sorted(set(streams[min(name for name in names if len(streams[name]) == most)]))


def set_back(stamps, received):
    """Return the first of samples, in the order in which they came, whose clock was set back; `None` for none."""
    late = 0
    for i in range(1, len(stamps)):
        newest = max(range(i), key=lambda k: (stamps[k], -k))
        if i < late or stamps[i] >= stamps[newest] - 100_000_000:
            continue
        if received is None or stamps[newest] - stamps[0] > 2 * (received[newest] - received[0]) + 1_000_000_000:
            if stamps[i] < stamps[newest] - 1_000_000_000:
                return i
            continue
        least = stamps[newest] - received[newest] - 100_000_000
        soon = [k for k in range(i, len(stamps)) if received[k] <= received[i] + 30_000_000_000]
        back = [k for k in soon if stamps[k] - received[k] >= least]
        if not back:
            return i
        late = back[0]
    return None


def parts_of(came):
    """Cut {name: [(arrival, stamp, received), ...]} where a clock was set back; return such dicts, in order."""
    found = []
    for samples in came.values():
        first = set_back([s for _, s, _ in samples], [r for _, _, r in samples])
        if first is not None:
            found.append(samples[first][0])
    if not found:
        return [came]
    cut = min(found)
    before = {name: [sample for sample in samples if sample[0] < cut] for name, samples in came.items()}
    after = {name: [sample for sample in samples if sample[0] >= cut] for name, samples in came.items()}
    return [before, *parts_of(after)]
