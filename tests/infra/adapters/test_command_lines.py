"""Command lines as they may be shown: no secret in them, and not too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.adapters.command_lines import LONGEST, shown

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
        (("setxkbmap", "keyboard", "monkey", "--keyring", "x"), "setxkbmap keyboard monkey --keyring x"),
        (("app", "--author", "me", "compass"), "app --author me compass"),
        (("app", "a\x1b[31mb\nc"), "app a\\x1b[31mb\nc"),
    ],
)  # fmt: skip
def test_values_of_what_looks_like_a_secret_are_masked(arguments, text):
    assert shown(arguments) == text


@given(st.sampled_from(["password", "db_password", "API_TOKEN", "client-secret", "ssl.key", "passphrase"]),
       st.sampled_from(["--{}={}", "{}={}", "-D{}={}", "{}: {}"]),
       st.lists(st.text("abc /=-", max_size=5), max_size=3))  # fmt: skip
def test_a_secret_is_masked_wherever_it_stands(name, form, others):
    assert SECRET not in shown([*others, form.format(name, SECRET), *others])


@given(st.lists(st.text()))
def test_a_long_line_is_cut_and_says_so(arguments):
    text = shown(arguments)

    assert len(text) <= LONGEST
    assert shown([*arguments, "x" * 300]).endswith(("…", "***"))
