"""Every comparison, one after the other, and the page made of them: ``make bench``, or ``python -m benchmarks.run --quick``.

Each comparison is a process of its own, so that none starts with another's memory. One that fails is named at the end; the rest
still run.
"""

import argparse
import subprocess
import sys
import time

PLAN: dict[str, tuple[list[str], list[str]]] = {
    # Arguments at default size, arguments of a quick try.
    "patch_sweep": (["--family", "qwen2_vl"], ["--family", "qwen2_vl", "--size", "quick", "--pairs", "1"]),
    "patch_sweep gemma3": (["--family", "gemma3", "--vision-layers", "4"], ["--family", "gemma3", "--size", "quick", "--pairs", "1"]),
    "families": ([], ["--quick"]),
    "compare_extraction": ([], ["--scenes", "70"]),
    "compare_probes": ([], ["--sites", "1", "--scenes", "200", "--features", "64"]),
    "compare_amplification": ([], ["--size", "quick"]),
    "compare_scenes": ([], ["--scenes", "60"]),
    "compare_stores": ([], ["--quick"]),
    "scaling": ([], ["--quick"]),
}
ON_CPU_ONLY = ("compare_probes", "compare_scenes", "compare_stores", "families")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="3 by default, 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="tiny models: does everything run? Numbers mean nothing")
    parser.add_argument("--only", choices=[*PLAN], nargs="+", default=[*PLAN])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    failed = []
    began = time.perf_counter()
    for name in given.only:
        module = name.split()[0]
        arguments = [*PLAN[name][given.quick], "--rounds", str(rounds)]
        if module not in ON_CPU_ONLY:
            arguments += ["--device", given.device]
        print(f"{name}: {' '.join(arguments)}", flush=True)
        started = time.perf_counter()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], check=False).returncode:
            failed.append(name)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    print(f"all: {(time.perf_counter() - began) / 60:.1f} minutes", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.page"], check=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
