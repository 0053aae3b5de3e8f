"""Run each benchmark in its tiny form, all in one process: it shows that the scripts work, and measures nothing.

python benchmarks/tiny.py [--data_dir=DIR]
"""

import contextlib
import importlib
import importlib.util
import io
import pathlib
import sys
import time


def main() -> int:
    """Stop at the first benchmark that fails, after what it has written."""
    scripts = sorted(path.stem for path in pathlib.Path(__file__).parent.glob("*.py"))
    has_torch = importlib.util.find_spec("torch") is not None
    for name in scripts:
        if name in ("results", "tables", "tiny") or (name.endswith("_vs_torch") and not has_torch):
            continue
        begin, written = time.monotonic(), io.StringIO()
        sys.argv = [f"{name}.py", "--tiny", *(word for word in sys.argv if word.startswith("--data_dir="))]
        with contextlib.redirect_stdout(written):
            code = importlib.import_module(name).main()
        if code:
            print(written.getvalue())
            return code
        print(f"benchmarks/{name}.py --tiny: {time.monotonic() - begin:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
