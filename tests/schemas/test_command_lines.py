"""Command lines as they may be shown: no secret in them, and not too long."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.command_lines import LONGEST, shown

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), ""),
        (("nginx", "-g", "daemon off;"), "nginx -g daemon off;"),
        (("app", "--password", SECRET, "--port", "80"), "app --password *** --port 80"),
        (("app", f"--password={SECRET}", "x"), "app --password=*** x"),
        (("app", f"--db-passwd={SECRET}"), "app --db-passwd=***"),
        (("redis-server", "--requirepass", SECRET), "redis-server --requirepass ***"),
        (("java", f"-Dspring.datasource.password={SECRET}", "-jar", "a.jar"),
         "java -Dspring.datasource.password=*** -jar a.jar"),
        (("env", f"API_KEY={SECRET}", "app"), "env API_KEY=*** app"),
        (("app", "--api-key", SECRET), "app --api-key ***"),
        (("app", "--key", SECRET), "app --key ***"),
        (("app", "-token", SECRET), "app -token ***"),
        (("app", "--password", "--token", SECRET), "app --password --token ***"),
        (("curl", "-H", f"Authorization: Bearer {SECRET}", "url"), "curl -H Authorization: *** url"),
        (("curl", f"http://h/p?a=1&token={SECRET}"), "curl http://h/p?a=1&token=***"),
        (("app", f"postgres://user:{SECRET}@db:5432/x"), "app postgres://***@db:5432/x"),
        (("sh", "-c", f"app --password {SECRET} go"), "sh -c app --password ***"),
        (("sh", "-c", f"SECRET_KEY='{SECRET}' app"), "sh -c SECRET_KEY=***"),
        (("app", f'{{"client_secret": "{SECRET}"}}'), 'app {"client_secret": ***'),
        (("mysql", f"-p{SECRET}", "shop"), "mysql -p*** shop"),
        (("/usr/bin/mysqldump", "-p", SECRET), "/usr/bin/mysqldump -p ***"),
        (("sshpass", f"-p{SECRET}", "ssh"), "sshpass -p*** ssh"),
        (("redis-cli", "-a", SECRET, "ping"), "redis-cli -a *** ping"),
        (("ssh", "-p", "22", "-a"), "ssh -p 22 -a"),
        (("curl", "-u", f"me:{SECRET}", "url"), "curl -u me:*** url"),
        (("curl", f"-ume:{SECRET}"), "curl -ume:***"),
        (("curl", f"--user=me:{SECRET}"), "curl --user=me:***"),
        (("app", "--user", "me"), "app --user me"),
        (("app", f"Bearer {SECRET}"), "app Bearer ***"),
        (("curl", "-H", f"Cookie: session={SECRET}"), "curl -H Cookie: ***"),
        (("curl", f"https://h/x?sig={SECRET}"), "curl https://h/x?sig=***"),
        (("app", "--cookie", SECRET), "app --cookie ***"),
        (("app", f"mongodb://u:p@ss/{SECRET}@h/db"), "app mongodb://***@h/db"),
        (("app", f"x=ghp_{SECRET}"), "app x=***"),
        (("app", f"eyJhbGci.eyJzdWIi.{SECRET}"), "app ***"),
        (("setxkbmap", "keyboard", "monkey", "--keyring", "x"), "setxkbmap keyboard monkey --keyring x"),
        (("app", "--author", "me", "compass"), "app --author me compass"),
        (("app", "a\x1b[31mb\nc"), "app a\\x1b[31mb\\x0ac"),
    ],
)  # fmt: skip
def test_values_of_what_looks_like_a_secret_are_masked(arguments, text):
    assert shown(arguments) == text


@given(st.sampled_from(["password", "db_password", "API_TOKEN", "client-secret", "ssl.key", "passphrase"]),
       st.sampled_from(["--{}={}", "{}={}", "-D{}={}", "{}: {}"]),
       st.lists(st.text("abc /=-", max_size=5), max_size=3))  # fmt: skip
def test_a_secret_is_masked_wherever_it_stands(name, form, others):
    assert SECRET not in shown([*others, form.format(name, SECRET), *others])


@pytest.mark.parametrize("word", ["z" * 10**6, "pass" * 10**5, "a://" * 10**5, "-" * 10**6, "x=" * 10**5])
def test_a_line_however_long_takes_no_time(word):
    began = time.monotonic()
    shown(["app", word, word])
    assert time.monotonic() - began < 0.5


def test_of_an_address_that_is_cut_no_password_is_left():
    for length in range(940, 1000, 3):
        text = shown(["x" * length, f"postgres://user:{SECRET}@host/{'d' * 100}"])
        assert SECRET not in text
    assert shown(["app", f"a://u:{'b' * 2000}@c"]) == "app a://***"


@given(st.lists(st.text()))
def test_a_long_line_is_cut_and_says_so(arguments):
    text = shown(arguments)

    assert len(text) <= LONGEST
    assert shown([*arguments, "x" * 300]).endswith(("…", "***")) or sum(map(len, arguments)) > LONGEST
