import pytest

from tingdao.text.leak import leaked

LIST = "淋巴结 臀位 积液 颈部 脾脏 胰腺"
STACK = "Kubernetes Postgres Hugging Face Redis Kafka Istio"
PROSE = "We talk about the new home in the stars. The captain is called Amelia and the ship is the Meridian."


@pytest.mark.parametrize(
    ("text", "context", "seconds"),
    [
        ("淋巴结 臀位 积液 颈部 脾脏 胰腺", LIST, 3.0),
        ("淋巴结、臀位、积液、颈部。", LIST, 3.0),
        ("积液 颈部 脾脏", LIST, 2.0),
        ("淋巴结臀位积液颈部脾", LIST, 3.0),  # without spaces, and cut off
        ("胰腺，胰腺，胰腺，胰腺，胰腺", LIST, 3.0),
        ("淋巴结 积液", LIST, 0.2),  # five characters that nobody says in so short a time
        ("你好，淋巴结 臀位 积液 颈部 脾脏 还有呢", LIST, 6.0),
        ("Kubernetes, Postgres, Hugging Face, Redis", STACK, 4.0),
        ("kubernetes postgres hugging face redis kafka istio", STACK, 4.0),
        ("Kubernetes Postgres Redis", STACK, 0.1),
        (PROSE, PROSE, 8.0),
        (PROSE.rsplit(" ", 2)[0], PROSE, 8.0),
        ("淋巴结 臀位 积液", f"医生谈检查结果。\n{LIST}", 3.0),
    ],
)
def test_a_leak(text, context, seconds):
    assert leaked(text, context, seconds)


@pytest.mark.parametrize(
    ("text", "context", "seconds"),
    [
        ("", LIST, 1.0),
        ("。", LIST, 1.0),
        ("淋巴结", LIST, 0.6),
        ("淋巴结，积液。", LIST, 1.2),
        ("淋巴结和胰腺。", LIST, 1.5),
        ("患者颈部淋巴结肿大，脾脏有积液，胰腺正常。", LIST, 5.0),
        ("Kubernetes and Postgres.", STACK, 1.5),
        ("Kubernetes, Postgres.", STACK, 1.5),
        ("Hugging Face", STACK, 0.9),
        ("Our stack is Kubernetes, Postgres, Redis and Kafka.", STACK, 5.0),
        ("We must find a new home in the stars.", PROSE, 3.0),
        ("The captain is called Amelia.", PROSE, 2.0),
        ("淋巴结 臀位 积液", "", 3.0),
        ("好的好的。", "好的", 0.8),
    ],
)
def test_speech(text, context, seconds):
    assert not leaked(text, context, seconds)
