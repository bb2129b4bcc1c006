"""What a local Kafka needs is found, or the message says what to install."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.broker import jars
from pipeline.errors import BrokerUnavailable

ROOT = Path(jars.__file__).parents[2]
INSTALL = "apt-get install maven default-jre-headless"
GOOD_JAVA = "echo 'openjdk version \"21.0.4\" 2024-07-16' >&2"
GOOD_MAVEN = """
for argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=};; esac; done
echo called >> "$CALLS"
mkdir "$folder"
touch "$folder/kafka_2.13-0.jar"
"""


@pytest.fixture
def bin_folder(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def install(bin_folder):
    """install("java", script): a program of that name on the PATH of the test."""

    def write(name, script):
        program = bin_folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return write


@pytest.fixture
def find(bin_folder):
    """A look-up that sees only what the test installed."""
    return lambda name: shutil.which(name, path=str(bin_folder))


@pytest.fixture
def env(tmp_path):
    return {"CALLS": str(tmp_path / "calls"), "PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ('openjdk version "24-ea" 2025-03-18', 24),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "11.0.2"', 11),
        ("command not found", None),
    ],
)
def test_the_version_is_read_as_every_jvm_writes_it(printed, version):
    assert jars.parse_java_version(printed) == version


def test_without_java_the_message_says_what_to_install(find, env, tmp_path):
    with pytest.raises(BrokerUnavailable, match="no `java` on PATH") as caught:
        jars.runtime(tmp_path, env, find)

    assert INSTALL in str(caught.value)


def test_an_old_java_is_refused_with_its_version(find, env, install, tmp_path):
    install("java", "echo 'openjdk version \"11.0.2\"' >&2")

    with pytest.raises(BrokerUnavailable, match=r"is Java 11, and Apache Kafka .* needs Java 17") as caught:
        jars.runtime(tmp_path, env, find)

    assert INSTALL in str(caught.value)


def test_a_java_that_does_not_run_is_refused(find, env, install, tmp_path):
    install("java", "exit 1")

    with pytest.raises(BrokerUnavailable, match="says no version"):
        jars.runtime(tmp_path, env, find)


def test_java_home_wins_over_the_path_and_is_named_when_it_is_empty(find, env, install, tmp_path):
    install("java", GOOD_JAVA)
    home = tmp_path / "jdk"

    with pytest.raises(BrokerUnavailable, match=f"JAVA_HOME is {home}, which has no bin/java"):
        jars.find_java({**env, "JAVA_HOME": str(home)}, shutil.which)

    (home / "bin").mkdir(parents=True)
    shutil.copy(install("java", GOOD_JAVA), home / "bin" / "java")
    assert jars.find_java({**env, "JAVA_HOME": str(home)}, shutil.which) == home / "bin" / "java"


def test_without_maven_the_message_says_what_to_install(find, env, install, tmp_path):
    install("java", GOOD_JAVA)

    with pytest.raises(BrokerUnavailable, match="no `mvn` on PATH") as caught:
        jars.runtime(tmp_path, env, find)

    assert INSTALL in str(caught.value)


def test_maven_is_not_needed_once_the_jars_are_there(find, env, install, tmp_path):
    install("java", GOOD_JAVA)
    maven = install("mvn", GOOD_MAVEN)
    first = jars.runtime(tmp_path, env, find)
    maven.unlink()

    assert jars.runtime(tmp_path, env, find) == first
    assert list(first.jars.glob("kafka_*.jar"))


def test_the_cache_folder_comes_from_the_environment(find, env, install, tmp_path):
    install("java", GOOD_JAVA)
    install("mvn", GOOD_MAVEN)

    found = jars.runtime(None, {**env, "LOCKGATE_CACHE": str(tmp_path / "cache")}, find)

    assert found.jars.parent == tmp_path / "cache"
    assert found.jars.name.startswith(f"kafka-{jars.kafka_version()}-")


@pytest.mark.parametrize(
    "script",
    ["echo 'no route to the repository'; exit 1", f"{GOOD_MAVEN}\necho 'no route to the repository'; exit 1"],
    ids=["nothing fetched", "half fetched"],
)
def test_a_failed_fetch_tells_mavens_words_and_leaves_nothing_to_trip_over(find, env, install, tmp_path, script):
    install("java", GOOD_JAVA)
    install("mvn", script)
    cache = tmp_path / "cache"

    with pytest.raises(BrokerUnavailable, match="no route to the repository"):
        jars.runtime(cache, env, find)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]

    install("mvn", GOOD_MAVEN)
    assert list(jars.runtime(cache, env, find).jars.glob("kafka_*.jar"))


def test_a_cache_that_cannot_be_written_is_named(find, env, install, tmp_path):
    install("java", GOOD_JAVA)
    install("mvn", GOOD_MAVEN)
    (tmp_path / "file").touch()

    with pytest.raises(BrokerUnavailable, match="set LOCKGATE_CACHE"):
        jars.runtime(tmp_path / "file" / "cache", env, find)


def test_processes_that_come_at_once_fetch_once(env, install, bin_folder, tmp_path):
    install("java", GOOD_JAVA)
    install("mvn", f"sleep 0.7{GOOD_MAVEN}")  # long enough for all three to come while one fetches
    script = (
        "import sys; from pathlib import Path; from pipeline.broker.jars import runtime; runtime(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache")]
    path = {**env, "PATH": f"{bin_folder}:{env['PATH']}"}

    with ThreadPoolExecutor(3) as pool:
        for done in pool.map(lambda _: subprocess.run(command, env=path, cwd=ROOT), range(3)):
            assert done.returncode == 0

    assert Path(env["CALLS"]).read_text() == "called\n"
