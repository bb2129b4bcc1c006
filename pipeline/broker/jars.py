"""Brings what a local Apache Kafka needs: a JVM (looked for) and the jars (fetched once by Maven).

The jars lie in a cache folder named after the Kafka version and the pom's hash, so that a changed pom never
meets old jars. A folder with that name is always complete: it is filled under another name, then renamed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.errors import BrokerUnavailable

POM = Path(__file__).with_name("pom.xml")
OLDEST_JAVA = 17
# The default is Java 17 on Debian 12 and Java 21 on Debian 13: a numbered package exists on only one of them.
_INSTALL = "on Debian run `apt-get install maven default-jre-headless`"
_MAVEN_TIMEOUT_S = 900  # a slow line may need minutes for 60 MB; a hanging one must still end

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A JVM that is new enough, and the folder with every jar that the broker needs."""

    java: Path
    jars: Path


def kafka_version() -> str:
    """The pinned version of Apache Kafka, as the pom states it."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", POM.read_text(encoding="utf-8"))
    assert found is not None
    return found.group(1)


def runtime(cache_dir: Path | None = None, env: Mapping[str, str] = os.environ, which: Which = shutil.which) -> Runtime:
    """The JVM and the jars, the jars fetched into `cache_dir` when they are not there yet.

    Without `cache_dir` it is $LOCKGATE_CACHE, else the user's cache folder.

    Safe to call from several processes at once. Raises BrokerUnavailable, which says what to install.
    """
    java = find_java(env, which)
    cache = (cache_dir or Path(env.get("LOCKGATE_CACHE") or "~/.cache/lockgate")).expanduser().absolute()
    digest = sha256(POM.read_bytes()).hexdigest()[:8]
    jars = cache / f"kafka-{kafka_version()}-{digest}"
    if not jars.is_dir():
        _fetch(jars, java, env, which)
    return Runtime(java, jars)


def find_java(env: Mapping[str, str], which: Which = shutil.which) -> Path:
    """$JAVA_HOME's java, else the one on PATH, when it is new enough; else BrokerUnavailable."""
    home = env.get("JAVA_HOME")
    candidate = str(Path(home) / "bin" / "java") if home else "java"
    found = which(candidate)
    if found is None:
        where = f"JAVA_HOME is {home}, which has no bin/java" if home else "there is no `java` on PATH"
        raise BrokerUnavailable(f"{where}: {_INSTALL}")
    version = java_version(found)
    if version is None or version < OLDEST_JAVA:
        said = "says no version" if version is None else f"is Java {version}"
        raise BrokerUnavailable(
            f"{found} {said}, and Apache Kafka {kafka_version()} needs Java {OLDEST_JAVA} or newer: "
            f"{_INSTALL}, or point JAVA_HOME at a newer one"
        )
    return Path(found)


def java_version(java: str) -> int | None:
    """The feature number of a JVM (8, 17, 21), None when it does not run or says none."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_java_version(said.stderr + said.stdout)


def parse_java_version(text: str) -> int | None:
    """The feature number in what `java -version` prints; Java 8 and older call themselves 1.x."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _fetch(jars: Path, java: Path, env: Mapping[str, str], which: Which) -> None:
    maven = which("mvn")
    if maven is None:
        raise BrokerUnavailable(f"there is no `mvn` on PATH to fetch Apache Kafka {kafka_version()} with: {_INSTALL}")
    try:
        jars.parent.mkdir(parents=True, exist_ok=True)
        with _locked(jars.parent / f"{jars.name}.lock"):
            if not jars.is_dir():  # another process may have fetched them while we waited
                _copy_dependencies(maven, jars, java, env)
    except OSError as error:
        raise BrokerUnavailable(
            f"cannot write the jars of Apache Kafka to {jars.parent} ({error}): set LOCKGATE_CACHE to a "
            "folder that can be written"
        ) from error


def _copy_dependencies(maven: str, jars: Path, java: Path, env: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=jars.parent) as scratch:
        shutil.copy(POM, scratch)  # Maven may want to write beside the pom; the package may be read-only
        fetched = Path(scratch) / "jars"
        command = [
            maven,
            "--batch-mode",
            "--quiet",
            "--strict-checksums",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={fetched}",
            "-DincludeScope=runtime",
        ]
        try:
            said = subprocess.run(  # noqa: S603
                command,
                cwd=scratch,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_MAVEN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerUnavailable(
                f"Maven did not fetch Apache Kafka in {_MAVEN_TIMEOUT_S} s: check the network and try again"
            ) from error
        if said.returncode != 0 or not any(fetched.glob("kafka_*.jar")):
            lines = [line for line in said.stdout.splitlines() if line.strip()]
            raise BrokerUnavailable(
                f"Maven could not fetch Apache Kafka {kafka_version()} (exit code {said.returncode}). Check "
                f"that this machine reaches a Maven repository and that {java} is a whole JVM. "
                f"Maven's first words: {' | '.join(lines[:4])}"
            )
        fetched.rename(jars)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
