"""What a fixture makes is due when the fixture ends, and is named as the fixture's: no test that used it is blamed."""

from __future__ import annotations

from tests.plugin.conftest import Judge


def test_a_fixture_of_each_scope_answers_at_its_own_end(judge: Judge) -> None:
    conftest = """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture(scope="session")
    def of_session():
        yield SharedMemory(create=True, size=15).close()  # leaks: session fixture of_session, segment 15, after test_z

    @pytest.fixture(scope="package")
    def of_package():
        SharedMemory(create=True, size=14).close()  # leaks: package fixture of_package, segment 14, after test_z
        yield
    """
    one = """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture
    def of_function():
        segment = SharedMemory(create=True, size=11)  # leaks: function fixture of_function, segment 11, after TestA::test_b
        yield segment
        segment.close()

    @pytest.fixture(scope="class")
    def of_class():
        segment = SharedMemory(create=True, size=12)  # leaks: class fixture of_class, segment 12, after TestA::test_e
        yield segment
        segment.close()

    @pytest.fixture(scope="module")
    def of_module():
        segment = SharedMemory(create=True, size=13)  # leaks: module fixture of_module, segment 13, after test_y
        yield segment
        segment.close()

    @pytest.fixture(scope="class")
    def clean_of_class():
        yield from clean()

    @pytest.fixture(scope="module")
    def clean_of_module():
        yield from clean()

    def clean():
        segment = SharedMemory(create=True, size=10)
        yield segment
        segment.close()
        segment.unlink()

    def test_first(of_session, clean_of_module):
        pass

    class TestA:
        def test_a(self, of_class, clean_of_class):
            pass

        def test_b(self, of_function, of_class):
            pass

        def test_c(self, clean_of_class): pass

        def test_d(self, of_module):
            pass

        def test_e(self):
            pass

    def test_x(of_module, of_package, of_session):
        pass

    def test_y(clean_of_module):
        pass
    """
    two = """
    def test_other_module(of_session):
        pass

    def test_z():
        pass
    """

    judged = judge({"conftest.py": conftest, "pack/__init__.py": "", "pack/test_1.py": one, "pack/test_2.py": two})

    judged.confirm()
    assert all(leak["owner"]["during"] for leak in judged.leaks if leak["owner"]["what"] == "fixture")


def test_what_a_fixture_makes_in_its_finalizer_or_by_a_factory_is_its_own_too(judge: Judge) -> None:
    judged = judge(
        """
    import functools
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture(scope="module")
    def late():
        yield
        SharedMemory(create=True, size=21).close()  # leaks: module fixture late, segment 21, after test_z

    @pytest.fixture
    def finalized(request):
        request.addfinalizer(lambda: SharedMemory(create=True, size=22).close())  # leaks: function fixture finalized, \
segment 22, after test_finalized

    @pytest.fixture(scope="module")
    def inner():
        yield SharedMemory(create=True, size=23).close()  # leaks: module fixture inner, segment 23, after test_z

    @pytest.fixture(scope="module")
    def outer(inner):
        segment = SharedMemory(create=True, size=10)
        yield segment
        segment.close()
        segment.unlink()

    @pytest.fixture(scope="module", params=[31, 32])
    def each(request):
        segment = SharedMemory(create=True, size=request.param)  # leaks: module fixture each, segment 31; module \
fixture each, segment 32, after test_z
        yield segment
        segment.close()

    def test_first(late, outer): pass
    def test_finalized(finalized): pass
    def test_each(each): pass

    def test_z():
        pass
    """
    )

    judged.confirm()


def test_a_factory_leaves_what_it_makes_to_its_fixture(judge: Judge) -> None:
    judged = judge(
        """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    class Buffers:
        def __init__(self):
            self.made = []

        def take(self, size):
            self.made.append(SharedMemory(create=True, size=size))  # leaks: session fixture forgetful, segment 41, after \
test_z; session fixture forgetful, segment 42, after test_z
            return self.made[-1]

        def close(self, unlink=True):
            for segment in self.made:
                segment.close()
                if unlink:
                    segment.unlink()

    @pytest.fixture(scope="session")
    def pool():
        buffers = Buffers()
        yield buffers
        buffers.close()

    @pytest.fixture(scope="session")
    def forgetful():
        buffers = Buffers()
        yield buffers
        buffers.close(unlink=False)

    @pytest.fixture
    def make():
        made = []
        def make(size):
            made.append(SharedMemory(create=True, size=size))
            return made[-1]
        yield make
        for segment in made:
            segment.close()
            segment.unlink()

    def test_first(pool, forgetful, make): make(10)

    @pytest.mark.parametrize("size", [41, 42])
    def test_that_makes_the_pool_grow(pool, forgetful, make, size):
        pool.take(100)
        forgetful.take(size)
        make(10)

    def test_z(pool):
        pool.take(100)
    """
    )

    judged.confirm()


def test_processes_of_a_session_fixture_make_what_is_the_fixtures(judge: Judge) -> None:
    judged = judge(
        """
    import multiprocessing, os
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.shared_memory import SharedMemory

    import pytest

    METHODS = ["fork", "spawn", "forkserver"]
    segments = []

    @pytest.fixture(scope="session", params=METHODS)
    def executor(request):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(request.param)) as executor:
            yield executor

    def take(size):
        segments.append(SharedMemory(create=True, size=size))

    def drop():
        if segments:
            segments[-1].close()
            segments.pop().unlink()

    def test_first_submit(executor):
        executor.submit(abs, 1).result()

    def test_later_submit(executor):
        executor.submit(take, 10).result()

    def test_submit_that_ends_it(executor):
        executor.submit(drop).result()

    def serve(pipe):
        for size in iter(pipe.recv, 0):
            segment = SharedMemory(create=True, size=size)  # leaks: session fixture worker, segment 51; \
session fixture worker, segment 52; session fixture worker, segment 53
            pipe.send(segment.name)
        os._exit(0)

    @pytest.fixture(scope="session", params=METHODS)
    def worker(request):
        context = multiprocessing.get_context(request.param)
        pipe, other = context.Pipe()
        process = context.Process(target=serve, args=(other,), daemon=True)
        process.start()
        yield pipe
        pipe.send(0)
        process.join()

    def test_that_uses_it_first(worker):
        pass

    def test_that_has_it_make_something(worker, request):
        worker.send(51 + METHODS.index(request.node.callspec.params["worker"]))
        worker.recv()

    def test_z(worker):
        pass
    """
    )

    judged.confirm()


def test_a_setup_that_fails_half_way_leaves_its_half_to_the_fixture(judge: Judge) -> None:
    judged = judge(
        """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    @pytest.fixture(scope="module")
    def broken():
        SharedMemory(create=True, size=61).close()
        raise LookupError("half way")

    @pytest.fixture
    def whole():
        segment = SharedMemory(create=True, size=10)
        yield segment
        segment.close()
        segment.unlink()

    def test_a(whole, broken):
        pass

    def test_b(whole):
        pass
    """
    )

    assert judged.status == 1
    assert judged.not_passed() == {"test_a": "setup failed", "test_b": "teardown failed"}
    assert [(blame.owner, blame.thing, blame.line) for blame in judged.blames()] == [
        ("module fixture broken", "segment 61", 6)
    ]


def test_what_a_fixture_without_a_value_cleans_up_at_its_end_is_its_own(judge: Judge) -> None:
    judged = judge(
        """
    import pytest
    from multiprocessing.shared_memory import SharedMemory

    CACHE, OTHERS, POOL = {}, {}, None

    def take(where, size):
        if size not in where:
            where[size] = SharedMemory(create=True, size=size)  # leaks: test_of_others, segment 71; \
session fixture forgetting, segment 72, after test_z

    @pytest.fixture(scope="session", autouse=True)
    def cleaning():
        yield
        shut_down()

    def shut_down():
        for segment in CACHE.values():
            segment.close()
            segment.unlink()

    @pytest.fixture(scope="session")
    def forgetting():
        yield
        {}.update(FORGOTTEN)

    FORGOTTEN = {}

    def setup_module():
        global POOL
        POOL = {}

    def teardown_module():
        for segment in POOL.values():
            segment.close()
            segment.unlink()

    def test_cached():
        take(CACHE, 70)

    def test_cached_again():
        take(CACHE, 70)
        take(CACHE, 69)

    def test_of_others():
        take(OTHERS, 71)

    def test_forgotten(forgetting):
        take(FORGOTTEN, 72)

    def test_pool():
        take(POOL, 73)

    def test_z():
        pass
    """
    )

    judged.confirm()
