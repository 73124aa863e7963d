"""What a URI stands for."""

import os
from pathlib import Path

import pytest

from data_bridge.config import Settings
from data_bridge.errors import ConfigError
from data_bridge.io.listing import local_files
from data_bridge.io.locations import Bucketed, braces, check_hub_uri, check_url, glob_pattern, hub_url, scheme_of, shown
from data_bridge.io.transport import Transport

STRANGE = [
    "with space.txt",
    "100%.txt",
    "a%20b.txt",
    "a#b.txt",
    "ä€😀.txt",
    "me@home.txt",
    "a?b.txt",
    "[1].txt",
    "{a,b}.txt",
    "a:b.txt",
]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def below(folder: Path, uri: str) -> list[str]:
    return [os.path.relpath(path, folder) for path in local_files(uri)]


@pytest.mark.parametrize("name", STRANGE)
def test_a_name_that_exists_is_taken_literally(tmp_path: Path, name: str) -> None:
    touch(tmp_path, *STRANGE, "axb.txt", "1.txt", "a.txt", "b.txt")

    assert below(tmp_path, str(tmp_path / name)) == [name]
    assert below(tmp_path, f"file://{tmp_path}/{name}") == [name]


def test_a_file_uri_may_be_percent_encoded(tmp_path: Path) -> None:
    touch(tmp_path, "with space.txt")

    assert below(tmp_path, (tmp_path / "with space.txt").as_uri()) == ["with space.txt"]
    assert below(tmp_path, f"file://localhost{tmp_path}/with space.txt") == ["with space.txt"]


def test_a_file_uri_of_a_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="host or a relative path") as caught:
        local_files("file://data/a.txt")
    assert "file:///" in caught.value.hint


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.txt")
    monkeypatch.chdir(tmp_path)

    assert local_files("in/a.txt") == local_files("./in/../in/a.txt") == [str(tmp_path / "in/a.txt")]


def test_a_folder_is_all_its_files_but_the_marked_ones_in_order_of_bytes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.txt",
        "a/z.txt",
        "a.txt",
        "Z.txt",
        "é.txt",
        "_SUCCESS",
        ".hidden",
        "_tmp/x.txt",
        ".git/y.txt",
        "a/_no",
        "a/n_o",
    )

    expected = ["Z.txt", "a.txt", "a/n_o", "a/z.txt", "b.txt", "é.txt"]
    assert below(tmp_path, str(tmp_path)) == expected
    assert below(tmp_path, f"{tmp_path}/") == expected


def test_globs_match_within_one_folder_and_double_stars_below(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "b.txt", "c.csv", ".h.txt", "_m.txt", "d/a.txt", "d/e/a.txt", "d/.g/a.txt", "f/b.txt")

    assert below(tmp_path, f"{tmp_path}/*.txt") == ["_m.txt", "a.txt", "b.txt"]
    assert below(tmp_path, f"{tmp_path}/[ab].txt") == ["a.txt", "b.txt"]
    assert below(tmp_path, f"{tmp_path}/[!a].txt") == ["b.txt"]
    assert below(tmp_path, f"{tmp_path}/?.csv") == ["c.csv"]
    assert below(tmp_path, f"{tmp_path}/*/a.txt") == ["d/a.txt"]
    assert below(tmp_path, f"{tmp_path}/**/a.txt") == ["a.txt", "d/a.txt", "d/e/a.txt"]
    assert below(tmp_path, f"{tmp_path}/d/**") == ["d/a.txt", "d/e/a.txt"]
    assert below(tmp_path, f"{tmp_path}/.h*") == [".h.txt"]


def test_braces_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, *(f"s-{n:03}.txt" for n in range(12)), "x/b.txt", "x/a.txt")

    assert below(tmp_path, f"{tmp_path}/s-{{003..011}}.txt") == [f"s-{n:03}.txt" for n in range(3, 12)]
    assert below(tmp_path, f"{tmp_path}/x/{{b,a}}.txt") == ["x/b.txt", "x/a.txt"]


def test_everything_missing_is_named_in_one_error(tmp_path: Path) -> None:
    touch(tmp_path, "s-000.txt")

    with pytest.raises(ConfigError) as caught:
        local_files(f"{tmp_path}/s-{{000..009}}.txt")
    assert f"{tmp_path}/s-{{000..009}}.txt" in caught.value.message
    assert "s-001.txt" in caught.value.message
    assert "and 6 more" in caught.value.message
    assert "s-000.txt," not in caught.value.message


@pytest.mark.parametrize("name", ["none.txt", "*.none", "none/", "none/**/x"])
def test_no_match_is_an_error_that_names_the_uri(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        local_files(f"{tmp_path}/{name}")
    assert f"{tmp_path}/{name}" in caught.value.message
    assert caught.value.hint


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "_SUCCESS")

    with pytest.raises(ConfigError, match="no files below"):
        local_files(str(tmp_path))


def test_links_are_followed_and_broken_ones_are_errors(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.txt", "in/b.txt")
    (tmp_path / "in/link").symlink_to(tmp_path / "real")
    (tmp_path / "in/c.txt").symlink_to(tmp_path / "real/a.txt")

    assert below(tmp_path, f"{tmp_path}/in") == ["in/b.txt", "in/c.txt", "in/link/a.txt"]

    (tmp_path / "in/d.txt").symlink_to(tmp_path / "gone")
    for uri in (f"{tmp_path}/in", f"{tmp_path}/in/*.txt", f"{tmp_path}/in/d.txt", f"{tmp_path}/**/*.txt"):
        with pytest.raises(ConfigError, match=r"d\.txt cannot be read"):
            local_files(uri)


def test_a_folder_reached_twice_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "v3/a.txt")
    (tmp_path / "latest").symlink_to("v3")

    with pytest.raises(ConfigError, match="same folder"):
        local_files(str(tmp_path))


def test_a_loop_of_links_ends_in_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.txt")
    (tmp_path / "a/up").symlink_to(tmp_path)

    with pytest.raises(ConfigError, match="same folder"):
        local_files(f"{tmp_path}/**/*.txt")


def test_a_pipe_in_the_file_system_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        local_files(str(tmp_path / "fifo"))


def test_a_file_with_a_slash_after_it_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")

    with pytest.raises(ConfigError, match="not a folder"):
        local_files(f"{tmp_path}/a.txt/")


def test_schemes() -> None:
    assert scheme_of("/a/b") == scheme_of("a:b") == scheme_of("file:///a") == "file"
    assert scheme_of("S3://b/k") == "s3"
    for uri in ("pipe:cat x", " PIPE:cat", "pipe://x"):
        with pytest.raises(ConfigError, match="shell"):
            scheme_of(uri)


def test_braces_are_bounded_and_checked() -> None:
    assert braces("https://h/a-{08..11}.gz?x={a,b}")[:3] == [
        "https://h/a-08.gz?x=a",
        "https://h/a-08.gz?x=b",
        "https://h/a-09.gz?x=a",
    ]
    assert braces(r"s3://b/a\b") == [r"s3://b/a\b"]
    with pytest.raises(ConfigError, match="more than 1,000,000"):
        braces("s3://b/{0..99999999}")
    with pytest.raises(ConfigError, match="braces"):
        braces("s3://b/{0..9")


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("a/*.txt", ["a/b.txt", "a/😀.txt"], ["a/b/c.txt", "a/.h.txt", "a/b.txtx", "xa/b.txt"]),
        ("**/*.txt", ["b.txt", "a/b.txt", "a/b/c.txt"], [".a/b.txt", "a/.b.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "a/", "a/.b/c", "b/a"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb"]),
        ("[a-c]?", ["ax", "cz"], ["d1", "a", "a/"]),
        ("[!a-c]", ["d", "!"], ["a", "/", "."]),
        ("[]x]", ["]", "x"], ["["]),
        ("a[[]b", ["a[b"], ["ab"]),
        ("a.b+(c)$", ["a.b+(c)$"], ["axb"]),
        ("[&&~|]", ["&", "|", "~"], ["a"]),
        ("a[b", ["a[b"], ["ab"]),
    ],
)
def test_a_glob_matches_whole_names(glob: str, yes: list[str], no: list[str]) -> None:
    pattern = glob_pattern(glob)

    assert [name for name in yes if not pattern.fullmatch(name)] == []
    assert [name for name in no if pattern.fullmatch(name)] == []


def test_bucket_uris() -> None:
    place = Bucketed.parse("s3://bucket/a/b #1?.txt")
    assert (place.scheme, place.bucket, place.key) == ("s3", "bucket", "a/b #1?.txt")
    assert Bucketed.parse("r2://bucket/a/").listed_prefix == "a/"
    assert Bucketed.parse("r2://bucket").listed_prefix == ""
    assert Bucketed.parse("s3://bucket/a/b*c/d").listed_prefix == "a/b"
    assert Bucketed.parse("s3://bucket/a").listed_prefix is None
    with pytest.raises(ConfigError, match="bucket"):
        Bucketed.parse("s3:///key")


def test_keys_below_a_prefix_leave_out_marked_ones() -> None:
    keys = ["p/b", "p/a", "p/_x/a", "p/x/.y", "p/dir/", "p/é", "p/x_"]

    assert Bucketed.parse("s3://b/p/").matching(keys) == ["p/a", "p/b", "p/x_", "p/é"]
    assert Bucketed.parse("s3://b/_p/").matching(["_p/a"]) == ["_p/a"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://h/*.txt", "cannot be listed"),
        ("https://h/a[0-9].txt", "cannot be listed"),
        ("https://h/folder/", "cannot be listed"),
        ("https://h", "cannot be listed"),
        ("https:///a", "no host"),
        ("https://me:secret@h/a", "user or password"),
    ],
)
def test_urls_that_are_no_single_file_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_a_query_is_part_of_a_url_and_of_no_message() -> None:
    url = "https://h/a.txt?X-Amz-Signature=*secret*"

    assert check_url(url) == url
    assert shown(url) == "https://h/a.txt?…"
    assert shown("ftp://me:secret@h/a") == "ftp://h/a"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("hf://datasets/org/name@abc/data/a b.parquet", "org/name/resolve/abc/data/a%20b.parquet"),
        ("hf://org/name/a.csv", "org/name/resolve/main/a.csv"),
        (
            "hf://datasets/org/name@refs/convert/parquet/x/0.parquet",
            "org/name/resolve/refs%2Fconvert%2Fparquet/x/0.parquet",
        ),
        ("hf://datasets/org/name@refs%2Fpr%2F1/a#1?.txt", "org/name/resolve/refs%2Fpr%2F1/a%231%3F.txt"),
        ("hf://datasets/org/name@v1/me@home/x", "org/name/resolve/v1/me%40home/x"),
    ],
)
def test_hub_uris_become_urls(uri: str, path: str) -> None:
    assert hub_url(uri, "https://hub") == f"https://hub/datasets/{path}"


@pytest.mark.parametrize(
    "uri", ["hf://org/name", "hf://datasets/org/name@rev", "hf://org", "hf://org/name/dir/", "hf://org/name/*.csv"]
)
def test_hub_uris_that_are_no_single_file_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"no file|globs"):
        check_hub_uri(uri)


@pytest.mark.parametrize("uri", ["", "  "])
def test_an_empty_name_is_not_the_current_folder(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"input_uri is empty"):
        Transport(Settings.model_validate({"pipeline": {"input_uri": uri}})).expand([uri])
