"""Settings: where they come from, what is refused, and that secrets stay hidden."""

from pathlib import Path

import pytest

from pipeline.config import Settings, client_config, load_settings, nearest, read_yaml
from pipeline.errors import ConfigError

SECRET = "s3cr3t-of-the-broker"


@pytest.fixture
def settings_from(tmp_path, monkeypatch):
    """settings_from(text, **variables): the settings of a file with this text, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def load(text=None, **variables):
        if text is None:
            return load_settings(None, variables)
        file = tmp_path / "mine.yaml"
        file.write_text(text, "utf-8")
        return load_settings(file, variables)

    return load


def test_without_file_and_variables_the_defaults_hold(settings_from):
    settings = settings_from()
    assert settings.bootstrap_servers is None
    assert settings.environment == "dev"
    assert settings.slot is None
    assert settings.data_dir == Path(".lockgate")
    assert settings.cache_dir == Path.home() / ".cache" / "lockgate"


def test_a_file_in_the_working_directory_is_found(settings_from, tmp_path):
    (tmp_path / "lockgate.yaml").write_text("environment: staging\n", "utf-8")
    assert settings_from().environment == "staging"


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_settings(tmp_path / "absent.yaml", {})


def test_variables_win_over_the_file(settings_from):
    settings = settings_from(
        "environment: staging\nbootstrap_servers: a:9092\nslot: s0\n",
        LOCKGATE_ENVIRONMENT="prod",
        KAFKA_BOOTSTRAP_SERVERS="b:9092,c:9093",
        LOCKGATE_SLOT="worker-1",
        LOCKGATE_DATA_DIR="/var/lib/lockgate",
        LOCKGATE_CACHE="/var/cache/lockgate",
    )
    assert settings == Settings(
        environment="prod",
        bootstrap_servers="b:9092,c:9093",
        slot="worker-1",
        data_dir=Path("/var/lib/lockgate"),
        cache_dir=Path("/var/cache/lockgate"),
    )


def test_an_empty_variable_is_no_setting(settings_from):
    assert settings_from(KAFKA_BOOTSTRAP_SERVERS="", LOCKGATE_ENVIRONMENT="").environment == "dev"


def test_the_home_folder_may_be_written_short(settings_from):
    assert settings_from(LOCKGATE_DATA_DIR="~/lockgate").data_dir == Path.home() / "lockgate"


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(settings_from):
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown setting 'enviroment'; did you mean 'environment'\?"):
        settings_from("enviroment: prod\n")


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(settings_from):
    with pytest.raises(ConfigError, match=r"LOCKGATE_ENVIROMENT; did you mean 'LOCKGATE_ENVIRONMENT'\?"):
        settings_from(LOCKGATE_ENVIROMENT="prod")


def test_variables_of_other_programs_do_not_matter(settings_from):
    assert settings_from(KAFKA_HOME="/opt/kafka", LOCK="x", PATH="/bin") == settings_from()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("environment: Prod\n", "mine.yaml: environment: String should match"),
        ("environment: a.b\n", "environment"),
        ("environment: -a\n", "environment"),
        ("slot: a b\n", "slot"),
        ("bootstrap_servers: localhost\n", "'localhost' is not host:port"),
        ("bootstrap_servers: 'a:9092,b:nine'\n", "'b:nine' is not host:port"),
        ("bootstrap_servers: 'a:99999'\n", "is not host:port"),
        ("kafka: [1]\n", "kafka"),
        ("kafka: {acks: '1'}\n", "kafka: acks belong to Lockgate"),
        ("kafka: {enable.auto.commit: true, group.id: x}\n", "enable.auto.commit, group.id belong to Lockgate"),
        ("- a\n", "expected settings as `name: value`, not a list"),
        ("environment: [\n", "mine.yaml, line 2: expected"),
        ("environment: a\nenvironment: b\n", "'environment' stands here twice"),
    ],
)
def test_a_bad_file_is_refused_with_its_fault(settings_from, text, fault):
    with pytest.raises(ConfigError) as caught:
        settings_from(text)
    assert fault in str(caught.value)


def test_a_bad_variable_is_named(settings_from):
    with pytest.raises(ConfigError, match="LOCKGATE_ENVIRONMENT: String should match"):
        settings_from(LOCKGATE_ENVIRONMENT="Prod")


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ],
)
def test_a_secret_is_hidden_everywhere_but_in_the_client(settings_from, name):
    settings = settings_from(f"kafka:\n  {name}: {SECRET}\n  security.protocol: SASL_SSL\n")
    assert SECRET not in repr(settings) + str(settings) + repr(settings.shown()) + settings.model_dump_json()
    assert settings.shown()["kafka"] == {name: "**********", "security.protocol": "SASL_SSL"}
    assert client_config(settings, **{"bootstrap.servers": "a:1"})[name] == SECRET


def test_an_error_does_not_repeat_a_secret(settings_from):
    with pytest.raises(ConfigError) as caught:
        settings_from(f"kafka: {{sasl.password: [{SECRET}]}}\n")
    assert SECRET not in str(caught.value)


def test_the_settings_reach_the_client_as_librdkafka_spells_them(settings_from):
    settings = settings_from(
        "bootstrap_servers: a:9092\nkafka: {socket.keepalive.enable: true, socket.timeout.ms: 5000, ssl.ca.pem: x}\n"
    )
    assert client_config(settings) == {
        "bootstrap.servers": "a:9092",
        "socket.keepalive.enable": "true",
        "socket.timeout.ms": "5000",
        "ssl.ca.pem": "x",
    }


def test_what_a_client_needs_wins_over_the_settings(settings_from):
    settings = settings_from("bootstrap_servers: a:9092\nkafka: {client.id: mine}\n")
    config = client_config(settings, **{"client.id": "bench", "group.id": "g", "bootstrap.servers": "b:1"})
    assert config == {"bootstrap.servers": "b:1", "client.id": "bench", "group.id": "g"}


def test_a_client_without_broker_is_told_how_to_get_one(settings_from):
    with pytest.raises(ConfigError, match="KAFKA_BOOTSTRAP_SERVERS, or start a broker with `lockgate up`"):
        client_config(settings_from())


def test_an_error_of_yaml_does_not_repeat_a_secret(settings_from):
    with pytest.raises(ConfigError) as caught:
        settings_from(f"kafka: {{sasl.password: {SECRET}, ]}}\n")
    assert SECRET not in str(caught.value)


def test_settings_cannot_be_changed(settings_from):
    with pytest.raises(ValueError, match="frozen"):
        settings_from().environment = "prod"


def test_a_name_that_resembles_nothing_gets_the_list():
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_a_repeat_deep_in_a_file_is_refused(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a:\n  b: 1\n  b: 2\n", "utf-8")
    with pytest.raises(ConfigError, match="'b' stands here twice"):
        read_yaml(file)


def test_a_shared_part_of_a_file_may_be_used_again(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: &shared {x: 1}\nb: *shared\nc: {<<: *shared, y: 2}\n", "utf-8")
    assert read_yaml(file) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
