"""Small talk, and honest refusals of what is beyond the model, in English and Chinese.

`answer` is None for all of these; `key` says which sort of reply is right ("greet", "thanks",
"who", "can", "bye", "beyond"), which is what the evaluation checks.
"""

from random import Random

from demo_model.arithmetic import Language
from demo_model.beyond import beyond_question
from demo_model.problem import Problem

REPLIES = {
    "greet": {
        "en": "Hello! I am a tiny demo model. Ask me a small sum.",
        "zh": "你好！我是一个很小的演示模型。请给我一道小算术题。",
    },
    "thanks": {"en": "You are welcome!", "zh": "不客气！"},
    "bye": {"en": "Goodbye!", "zh": "再见！"},
    "who": {
        "en": "I am a tiny demo model that thinks before it answers.",
        "zh": "我是一个很小的演示模型，先思考再回答。",
    },
    "can": {
        "en": "I can do small sums, word problems, number sequences and simple equations.",
        "zh": "我会做小算术、应用题、数列和简单方程。",
    },
    "beyond": {
        "en": "I am a tiny demo model, and this is outside what I can do. I do small sums, word "
        "problems, number sequences and simple equations.",
        "zh": "我是一个很小的演示模型，这超出了我的能力。我会做小算术、应用题、数列和简单方程。",
    },
}
SAID = {
    "greet": {
        "en": ("Hello", "Hi", "Hey", "Hello!", "Hi!", "Hey there", "Hi there!", "Good morning",
               "Good evening!", "Good afternoon.", "Hello, how are you?", "How are you?",
               "Hi, how is it going?", "Hello there!", "hello", "hi", "hey", "Greetings!",
               "What's up?", "How are you doing today?", "Nice to meet you.", "Hello world"),
        "zh": ("你好", "您好", "你好！", "嗨", "早上好", "晚上好！", "下午好", "你好吗？", "大家好",
               "你好，最近怎么样？"),
    },
    "thanks": {
        "en": ("Thanks", "Thank you", "Thank you!", "Thanks a lot!", "Thank you very much.",
               "thanks", "thx", "Great, thanks!", "Cheers!", "Many thanks", "Perfect, thank you",
               "That was helpful, thanks.", "Good job!", "Well done!", "Nice, thank you."),
        "zh": ("谢谢", "谢谢！", "谢谢你", "非常感谢", "多谢", "太好了，谢谢", "感谢你的帮助"),
    },
    "bye": {
        "en": ("Bye", "Goodbye", "Bye!", "See you", "See you later!", "Good night", "bye bye",
               "Goodbye!", "Talk to you later."),
        "zh": ("再见", "再见！", "拜拜", "晚安", "回头见"),
    },
    "who": {
        "en": ("Who are you?", "who are you", "What are you?", "What is your name?",
               "Tell me about yourself.", "Are you a robot?", "Are you a human?", "Who made you?",
               "What model are you?", "Introduce yourself.", "Are you an AI?",
               "Which model is this?",
               "What's your name?", "Are you a large model?"),
        "zh": ("你是谁？", "你是谁", "你叫什么名字？", "介绍一下你自己", "你是什么模型？",
               "你是机器人吗？", "请自我介绍。"),
    },
    "can": {
        "en": ("What can you do?", "what can you do", "Help", "help", "How can you help me?",
               "What are you able to do?", "What do you know?", "Can you help me?",
               "What questions can I ask?", "What are you good at?", "What should I ask you?",
               "Can you do math?", "Which tasks can you solve?"),
        "zh": ("你会做什么？", "你能做什么", "你可以帮我什么？", "你有什么功能？", "帮助",
               "你擅长什么？", "我可以问你什么？"),
    },
}  # fmt: skip

THOUGHTS = {
    "en": ("This is not a small sum.", "I was not trained for this.", "This is outside my tasks."),
    "zh": ("这不是小算术题。", "我没有学过这个。", "这不在我的范围内。"),
}


def talk(rng: Random, language: Language) -> Problem:
    """Small talk (two in five) or something beyond the model."""
    if rng.random() < 0.4:
        sort = rng.choice(tuple(SAID))
        question = rng.choice(SAID[sort][language])
        trace = ""
    else:
        sort = "beyond"
        question = beyond_question(rng, language)
        trace = rng.choice(THOUGHTS[language])
    return Problem("talk", language, question, trace, REPLIES[sort][language], None, (sort,))
