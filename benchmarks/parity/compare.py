"""Compares two records that `record.py` wrote, and prints one table. Exit status 1 when they differ.

python benchmarks/parity/compare.py OFFICIAL.npz OURS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-3


def main() -> int:
    """The command line."""
    left, right = (np.load(Path(name)) for name in sys.argv[1:3])
    names = list(dict.fromkeys(key.split("/")[0] for key in left))
    print(f"{'recording':28} {'prompt ids':>14} {'logits differ by':>17} {'of at most':>11} {'same tokens':>12}")
    good = True
    for name in names:
        ids, tokens, logits = ((left[f"{name}/{key}"], right[f"{name}/{key}"]) for key in ("ids", "tokens", "logits"))
        same_ids = np.array_equal(*ids)
        alike = int(np.argmin(np.append(tokens[0] == tokens[1], False)))
        # After the first token that differs the two answer different questions.
        apart = float(np.abs(logits[0][: alike + 1] - logits[1][: alike + 1]).max())
        good &= same_ids and alike == len(tokens[0]) and apart <= TOLERANCE
        print(
            f"{name:28} {len(ids[0]):>5} {'equal' if same_ids else 'DIFFER':>8} {apart:17.2e} "
            f"{np.abs(logits[0]).max():11.2f} {alike:>5} of {len(tokens[0]):>3}  ({len(set(tokens[0]))} kinds)"
        )
    print(f"{'equal' if good else 'NOT EQUAL'}: prompt ids, greedy tokens, logits within {TOLERANCE}")
    return not good


if __name__ == "__main__":
    sys.exit(main())
