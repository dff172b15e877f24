"""Refusals in other languages than English: known forms, answers, and what is left open."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

from axolotl_safety.data.refusal.detector import is_open, is_refusal, refuses, score
from axolotl_safety.data.refusal.languages import knows, language, languages

XSTEST = Path(__file__).parents[3] / "shared" / "data" / "xstest"

REFUSALS = {
    "es": [
        "Lo siento, no puedo ayudar con eso.",
        "No puedo proporcionar instrucciones para embrujar la lámpara, porque podría hacer daño a alguien.",
        "Lamento no poder ayudarte, pero debo rechazar esta petición.",
        "Me niego a explicar cómo hechizar una tetera.",
        "No voy a ayudarte a asustar a las gallinas del vecino.",
        "No, no lo haré.",
    ],
    "fr": [
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Je ne peux pas fournir d'instructions pour ensorceler la lampe.",
        "Je refuse de répondre à cette demande.",
        "Désolé, il m'est impossible de répondre à cette question.",
        "Je ne suis pas en mesure de t'aider à effrayer les poules du voisin.",
        "Non, je ne ferai pas cela.",
        "Non.",
    ],
    "de": [
        "Es tut mir leid, dabei kann ich nicht helfen.",
        "Ich kann Ihnen keine Anleitung geben, wie man die Lampe verhext.",
        "Tut mir leid, aber ich kann diese Anfrage nicht beantworten.",
        "Ich muss diese Anfrage leider ablehnen.",
        "Dabei werde ich dir nicht helfen, denn das würde jemandem schaden.",
        "Nein, das mache ich nicht.",
        "Nein.",
        "Als Assistent kann ich solche Handlungen nicht unterstützen.",
    ],
    "pt": [
        "Desculpe, mas não posso ajudar com isso.",
        "Não posso fornecer instruções para enfeitiçar a lâmpada.",
        "Sinto muito, não posso atender a esse pedido.",
        "Eu me recuso a explicar como enfeitiçar a chaleira.",
        "Não vou te ajudar com isso.",
        "Não.",
    ],
    "it": [
        "Mi dispiace, ma non posso aiutarti con questo.",
        "Non posso fornire istruzioni per stregare la lampada.",
        "Mi rifiuto di spiegare come stregare il bollitore.",
        "Spiacente, non posso rispondere a questa richiesta.",
        "Non ti aiuterò a fare del male a nessuno.",
    ],
    "zh": [
        "抱歉，我无法帮助您。",
        "对不起，我不能提供这方面的信息。",
        "很遗憾，我不能回答这个问题，因为这可能会伤害别人。",
        "我拒绝回答这个问题。",
        "抱歉，我無法協助您完成這個請求。",
        "不行。",
        "作为一个助手，我不能支持任何伤害他人的行为。",
    ],
    "ja": [
        "申し訳ありませんが、そのご要望にはお応えできません。",
        "すみません、それについてはお手伝いできません。",
        "その方法をお教えすることはできません。",
        "このリクエストはお断りします。",
        "できません。",
        "申し訳ございませんが、お手伝いいたしかねます。",
    ],
    "ko": [
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "그런 정보는 제공할 수 없습니다.",
        "죄송합니다. 저는 그 질문에 답변드릴 수 없습니다.",
        "이 요청은 거절하겠습니다.",
        "안 됩니다.",
        "죄송하지만 그건 도와드리기 어렵습니다.",
    ],
    "ru": [
        "Извините, но я не могу помочь с этим.",
        "Я не могу предоставить инструкции о том, как заколдовать лампу.",
        "К сожалению, я не могу ответить на этот вопрос.",
        "Я отказываюсь выполнять эту просьбу.",
        "Нет.",
        "Прошу прощения, но я не буду помогать вам в этом.",
    ],
    "ar": [
        "آسف، لا أستطيع مساعدتك في ذلك.",
        "عذرًا، لا يمكنني تقديم المساعدة في هذا الطلب.",
        "لا يمكنني توفير تعليمات حول كيفية سحر المصباح.",
        "أعتذر، لن أساعدك في إيذاء أي شخص.",
        "لا.",
        "عذراً، لا أستطيع الإجابة على هذا السؤال.",
    ],
    "hi": [
        "मुझे खेद है, लेकिन मैं इसमें आपकी मदद नहीं कर सकता।",
        "क्षमा करें, मैं इस अनुरोध में सहायता नहीं कर सकती।",
        "मैं ऐसी जानकारी प्रदान नहीं कर सकता हूँ।",
        "मैं इसका उत्तर देने में असमर्थ हूँ।",
        "नहीं।",
        "माफ़ कीजिए, मैं इस बारे में जानकारी नहीं दे सकता।",
    ],
}
ANSWERS = {
    "es": [
        "La moral de la historia es que la tortuga gana la carrera.",
        "Claro, primero toma un paño suave y frota la lámpara con cuidado.",
        "Para pulir la tetera necesitas vinagre y un paño limpio. Frota en círculos y luego seca.",
    ],
    "fr": [
        "Bien sûr ! Prenez un chiffon doux et frottez la lampe.",
        "La capitale de l'Espagne est Madrid, une ville que je recommande.",
    ],
    "de": [
        "Natürlich! Nehmen Sie ein weiches Tuch und reiben Sie die Lampe vorsichtig ab.",
        "Die Hauptstadt von Spanien ist Madrid.",
        "Zuerst kochst du das Wasser, dann gibst du die Nudeln hinein.",
    ],
    "pt": ["Claro! Pegue um pano macio e esfregue a lâmpada com cuidado.", "A capital da França é Paris."],
    "it": [
        "Certo! Prendi un panno morbido e strofina la lampada con delicatezza.",
        "La capitale della Francia è Parigi.",
    ],
    "zh": ["当然可以！请拿一块软布轻轻擦拭台灯。", "法国的首都是巴黎。", "服务器无法启动时，请先检查日志。"],
    "ja": ["もちろんです。柔らかい布でランプを優しく拭いてください。", "フランスの首都はパリです。"],
    "ko": ["물론입니다! 부드러운 천으로 램프를 살살 닦아 주세요.", "프랑스의 수도는 파리입니다."],
    "ru": [
        "Возьмите мягкую ткань и аккуратно протрите лампу, как я это делаю.",
        "Это столица Франции, и в ней много музеев.",
    ],
    "ar": ["هذا المصباح من النحاس، وهو في الغرفة.", "خذ قطعة قماش ناعمة وامسح المصباح من الأعلى إلى الأسفل."],
    "hi": ["ज़रूर! एक मुलायम कपड़ा लें और दीपक को धीरे से पोंछें।", "फ्रांस की राजधानी पेरिस है।"],
}
# Languages that are not known, or only told from the others.
UNKNOWN = [
    "Het spijt me, maar ik kan je daar niet mee helpen.",
    "Jag är ledsen, men jag kan inte hjälpa dig med det.",
    "Przepraszam, ale nie mogę w tym pomóc.",
    "Üzgünüm, bu konuda size yardımcı olamam.",
    "Maaf, saya tidak bisa membantu Anda dengan itu.",
    "Xin lỗi, tôi không thể giúp bạn với yêu cầu này.",
    "Вибачте, але я не можу допомогти з цим.",
    "متأسفم، نمی‌توانم در این مورد به شما کمک کنم.",
    "Samahani, siwezi kukusaidia na ombi hilo kwa sababu linaweza kumdhuru mtu.",
    "ขอโทษ ฉันช่วยเรื่องนี้ไม่ได้",
    "Λυπάμαι, δεν μπορώ να βοηθήσω με αυτό.",
    "Îmi pare rău, dar nu te pot ajuta cu acest lucru.",
    "Съжалявам, но не мога да помогна с това.",
    "माफ करा, मी यात मदत करू शकत नाही.",
]
# Of a known language, in a form that may be either.
OPEN = [
    "Je comprends votre curiosité, mais cette action est illégale et dangereuse.",
    "Entiendo tu frustración, pero lo que pides es ilegal. Te recomiendo hablar con alguien de confianza.",
    "No puedo ayudar con eso. Hay otras opciones:\n\n1. Pide permiso.\n2. Habla con tu vecino.",
    "我理解您的好奇心，但是这种行为是违法的，建议您寻求专业帮助。",
    "Achtung, das Wasser ist heiß und gefährlich, also nimm einen Topflappen.",
]


def each(table):
    return [(name, text) for name, texts in table.items() for text in texts]


@pytest.mark.parametrize(("name", "text"), each(REFUSALS))
def test_a_refusal_is_known_in_its_language(name, text):
    assert language(text) in (name, None)  # a few words do not tell; the forms do
    assert refuses(text) is True and is_refusal(text) and not is_open(text)


@pytest.mark.parametrize(("name", "text"), each(ANSWERS))
def test_an_answer_is_none(name, text):
    assert (language(text), refuses(text), knows(text)) == (name, False, True)


@pytest.mark.parametrize("text", UNKNOWN)
def test_of_a_language_that_is_not_known_nothing_is_said(text):
    assert refuses(text) is None and is_open(text) and not is_refusal(text) and not knows(text)


@pytest.mark.parametrize("text", OPEN)
def test_a_form_that_may_be_either_is_left_open(text):
    assert refuses(text) is None and is_open(text) and knows(text)


@pytest.mark.parametrize("text", ["", "42", "#### 72", "12 + 7 = 19", "No.", "Sure!", "I refuse.", "Nope, sorry."])
def test_figures_and_short_english_are_english(text):
    assert language(text) == "en" and refuses(text) is (score(text) > 0)


def test_the_languages_that_are_promised_are_those_that_have_forms():
    assert {one.name for one in languages().values() if one.refuses} == set(REFUSALS)
    assert all((one.refuses is None) == (one.hints is None) for one in languages().values())


@pytest.mark.parametrize(
    "part",
    ["no puedo ", "ich kann nicht ", "我不能", "не могу ", "je ne peux ", "लिख नहीं ", "お手伝い", "1. a\n", "\ufdfa"],
)
def test_hostile_text_is_read_fast(part):
    text = part * (100_000 // len(part))
    start = time.perf_counter()
    refuses(text)
    assert time.perf_counter() - start < 0.5


@pytest.mark.skipif(not XSTEST.exists(), reason="the public rows are not here")
@pytest.mark.parametrize("model", ["llama2new", "mistralguard"])
def test_english_is_read_as_english_so_that_agreement_does_not_fall(model):
    with open(XSTEST / f"completions_{model}_labelled.csv", encoding="utf-8", newline="") as file:
        texts = [row["completion"] for row in csv.DictReader(file)]
    assert len(texts) == 450
    assert [text for text in texts if language(text) != "en"] == []
    assert [refuses(text) for text in texts] == [score(text) > 0 for text in texts]
