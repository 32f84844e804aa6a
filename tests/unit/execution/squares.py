"""Work for workers of tests: squares, and what may happen to those who compute them."""

from secateur.execution.supervisor import Supervisor

# Squares numbers; some numbers do something else, once or always. Files say what has happened already.
WORK = """
    import os, pathlib, signal, time

    def open_work(folder):
        folder = pathlib.Path(folder)

        def once(name):
            try:
                (folder / name).touch(exist_ok=False)
            except FileExistsError:
                return False
            return True

        def square(item):
            time.sleep(0.01)
            if item == "13":
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "7" and once("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "8" and once("hung"):
                time.sleep(60)
            if item == "9":
                raise ValueError("nine is refused")
            return str(int(item) ** 2)

        def work(kind, items):
            if kind == "wide" and len(items) > 2:
                raise MemoryError("too many at once")
            print("what a library prints does no harm")
            return [square(item) for item in items]

        return "numbers", work

    def open_nothing(folder):
        raise SystemExit("the model is not here")

    def open_other(folder):
        return f"process {os.getpid()}", None
"""


def squares(supervisor: Supervisor, items: list[int], kind: str = "plain", share: float = 1.0) -> dict[int, str]:
    asked = [str(item) for item in items]
    found = list(supervisor.results(kind, asked, lambda _, reason: f"failed: {reason}", share=share))
    assert len({item for item, _ in found}) == len(found), "one result per item"
    assert share < 1 or not items or len(found) >= len(items), "every item has one"
    return {int(item): result for item, result in found}


def right(items) -> dict[int, str]:
    return {item: str(item**2) for item in items}
