"""
`make bench`: measure the server, and others in the same run. Results go to artefacts/bench/.

WORKLOADS, STACKS, PEERS, NODES and ROUNDS choose; FLAME=1 adds flame graphs, QUICK=1 tries it with few people.
docs/performance.md tells the method.
"""

import sys
import time

from tests.load.bench import measure
from tests.load.machine import allow_many_sockets, end_when_told
from tests.load.options import ARTEFACTS, Refused, plan_of_environment
from tests.load.report import new_report, save, table
from tests.load.targets import BASE_DIR


def main() -> int:
    try:
        plan = plan_of_environment()
    except Refused as refusal:
        print(f"bench: {refusal}", file=sys.stderr)
        return 2
    allow_many_sockets()
    end_when_told()
    report = new_report(BASE_DIR, time.strftime("%Y-%m-%d %H:%M:%S"))
    try:
        measure(plan, report)
    except KeyboardInterrupt:
        print("stopped; what there is so far:")
    name = save(report, ARTEFACTS)
    print(f"\n{table(report)}\n{name}.json", flush=True)
    return 1 if any(result.violations for result in report.results) else 0


if __name__ == "__main__":
    sys.exit(main())
