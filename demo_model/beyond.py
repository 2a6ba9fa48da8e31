"""Requests beyond the model: the capital of France, poems, code, sums that are too long.

They are many and varied, with invented words among their fillers, since the model is to decline
whatever it was not taught, not only what is listed here.
"""

from random import Random

from demo_model.arithmetic import Language
from demo_model.sums import ADD, SUBTRACT

PLACES = ("France", "Japan", "Brazil", "Kenya", "Canada", "Egypt", "Spain", "India", "Peru",
          "Italy",
          "Norway", "Germany", "Mexico", "Australia", "Turkey", "Poland", "Chile", "Iran",
          "China")  # fmt: skip
TOPICS = (
    "the sea", "a cat", "love", "autumn", "a dragon", "space travel", "music", "my dog", "winter",
    "the history of Rome", "quantum physics", "climate change", "cooking rice", "football",
    "black holes", "dinosaurs", "the stock market", "a lost key", "friendship", "machine learning",
    "the French Revolution", "gardening", "volcanoes", "chess", "photosynthesis", "old ships",
)  # fmt: skip
PEOPLE = ("Einstein", "Shakespeare", "Napoleon", "Mozart", "Cleopatra", "Newton", "Marie Curie",
          "the president", "the first man on the moon", "Beethoven", "Gandhi",
          "Leonardo")  # fmt: skip
TASKS = (
    "sorts a list", "reverses a string", "reads a file", "prints hello world", "downloads a page",
    "checks for primes", "parses JSON", "computes factorials", "connects to a database",
)  # fmt: skip
BEYOND_EN = (
    "What is the capital of {place}?", "capital of {place}", "Where is {place}?",
    "How many people live in {place}?", "What language do they speak in {place}?",
    "Tell me about {place}.", "Who is the president of {place}?", "Plan a trip to {place}.",
    "Write a {form} about {topic}.", "Write me a {form} about {topic}", "Tell me a {form}.",
    "Can you write a {form} on {topic}?", "Compose a {form} about {topic}.", "Tell me a joke.",
    "Explain {topic}.", "Explain {topic} to a child.", "What is {topic}?",
    "What do you think of {topic}?",
    "Give me five facts about {topic}.", "Summarize {topic} in one paragraph.",
    "Tell me about {topic}.",
    "Who was {person}?", "When was {person} born?", "What did {person} do?", "Who is {person}?",
    "Write a {code} function that {task}.", "Write {code} code that {task}.", "Fix my {code} code.",
    "How do I write a program that {task}?", "Give me a {code} script that {task}",
    "Translate '{topic}' into {language}.", "How do you say {topic} in {language}?",
    "What is the weather today?", "What time is it?", "Will it rain in {place} tomorrow?",
    "How do I cook {food}?", "Give me a recipe for {food}.", "Is {food} healthy?",
    "Why is the sky blue?", "What is the meaning of life?", "Sing a song.", "Who won the match?",
    "Recommend a good book.", "Recommend a film about {topic}.", "What is the news today?",
    "How tall is the Eiffel Tower?", "How far away is the moon?", "What is the speed of light?",
    "Draw a picture of {topic}.", "Play a game with me.", "Give me some advice about {topic}.",
    "Should I buy a car?", "What is the best phone?", "How can I learn {language}?",
    "Prove that there are infinitely many primes.", "What is the integral of x^2?",
    "What is the derivative of sin(x)?", "Solve x^2 + {small}x + {digit} = 0.",
    "Factor {mid}.", "Is {mid} a prime number?", "What is the square root of {mid}?",
    "What is {percent}% of {mid}?", "What is {small}/{digit} + {digit}/{small}?",
    "What is {mid} times {mid2}?", "{mid} * {mid2}", "{mid} × {mid2} = ?", "Compute {mid}*{mid2}.",
    "Multiply {mid} by {mid2}.", "What is {mid} divided by {small}?", "{mid} / {small}",
    "What is {small} to the power of {digit}?", "{digit}^{small}", "What is {small} factorial?",
    "{big} + {big2}", "What is {big} + {big2}?", "Compute {big} + {big2}.", "Add {big} and {big2}.",
    "{big}+{big2}=?", "{big} - {big2}", "What is {big} - {big2}?", "Subtract {big2} from {big}.",
    "{big} × {big2}", "What is {big} minus {mid}?", "{big}+{mid}", "What is {big} plus {mid}?",
    "What is the probability of rolling a {digit}?", "Solve x + y = {mid}, x - y = {small}.",
    "What is the {late}th term of {small}, {small2}, ...?", "How many days are in {small} weeks?",
    "Convert {mid} miles to kilometres.", "What is the area of a circle of radius {small}?",
    "How long is the river in {place}?", "When did {place} become a country?",
    "Name the largest city of {place}.", "Who wrote the book about {topic}?", "Define {topic}.",
    "What is a {noun}?", "What is the {noun}?", "What are {noun}s made of?",
    "How does a {noun} work?",
    "Where can I buy a {noun}?", "How do I {verb} a {noun}?", "How can I {verb} my {noun}?",
    "Can you {verb} my {noun}?", "Please {verb} the {noun}.", "Why is my {noun} so {adjective}?",
    "Why do people {verb} {noun}s?", "I want to {verb} a {noun}.", "I need a {adjective} {noun}.",
    "Which {noun} is the most {adjective}?", "Who invented the {noun}?",
    "Describe a {adjective} {noun}.",
    "{verb} this {noun} for me", "Is a {noun} more {adjective} than a {noun2}?", "{noun}",
    "{noun} {noun2}",
    "What is the difference between a {noun} and a {noun2}?", "Compare {noun}s and {noun2}s.",
    "My {noun} is {adjective}. What should I do?", "Should I {verb} the {noun} or the {noun2}?",
    "How much does a {noun} cost?", "How old is the oldest {noun}?",
    "When was the {noun} invented?",
    "Tell me something {adjective} about the {noun}.", "How many {noun}s are there in {place}?",
    "List {digit} kinds of {noun}.", "Name {digit} {adjective} {noun}s.", "What color is a {noun}?",
    "Write {digit} sentences about a {noun}.", "What rhymes with {noun}?",
    "How do you spell {noun}?",
    "What is the plural of {noun}?", "What does {noun} mean?", "Translate {noun} to {language}.",
    "What happened in 19{small}?", "Who won the world cup in 20{small}?",
    "In which year did {person} die?",
    "Give me a list of {adjective} {noun}s.", "Help me {verb} a {noun}", "Let's {verb} the {noun}.",
    "Summarize this text: the {adjective} {noun} will {verb} a {noun2}.", "Do you like {noun}s?",
    "Do you {verb} {noun}s?", "Have you ever seen a {noun}?", "What is your favourite {noun}?",
    "Are {noun}s {adjective}?", "Where do {noun}s come from?", "Is it safe to {verb} a {noun}?",
)  # fmt: skip
BEYOND_ZH = (
    "{place}的首都是哪里？", "{place}的首都是什么？", "{place}有多少人口？", "介绍一下{place}。",
    "去{place}旅游要注意什么？",
    "写一首关于{topic}的诗。", "写一个关于{topic}的故事", "讲个笑话", "写一篇关于{topic}的作文。",
    "解释一下{topic}。",
    "什么是{topic}？", "谈谈{topic}", "{person}是谁？", "{person}是什么时候出生的？",
    "用Python写一个程序", "写一段代码实现排序。",
    "今天天气怎么样？", "现在几点了？", "把这句话翻译成英语。", "怎么做{food}？", "推荐一本书",
    "推荐一部电影。", "天空为什么是蓝色的？",
    "人生的意义是什么？", "唱一首歌", "今天有什么新闻？", "光速是多少？", "怎么学英语？",
    "{big}+{big2}=?", "计算{big}+{big2}。",
    "{big}加{big2}等于多少？", "{big}-{big2}等于多少？", "{mid}×{mid2}等于多少？",
    "计算{mid}*{mid2}", "{mid}乘以{mid2}是多少？",
    "{mid}除以{small}等于多少？", "{mid}的平方根是多少？", "{mid}是质数吗？",
    "x的平方的导数是什么？", "求{mid}的因数。",
    "{big}×{big2}等于多少？", "圆的面积怎么算？", "半径为{small}的圆面积是多少？",
    "{mid}的{percent}%是多少？",
    "什么是{noun}？", "{noun}是什么？", "怎么使用{noun}？", "哪里可以买到{noun}？",
    "谁发明了{noun}？", "{noun}多少钱？",
    "{noun}和{noun2}有什么区别？", "你喜欢{noun}吗？", "为什么{noun}这么贵？", "我想买一个{noun}",
    "帮我画一个{noun}。",
    "请描述一下{noun}。", "{noun}好吃吗？", "请推荐一个{noun}。", "{noun}用英语怎么说？",
    "如何修理{noun}？", "说说{noun}的历史。",
)  # fmt: skip
ZH_PLACES = (
    "法国",
    "日本",
    "巴西",
    "美国",
    "英国",
    "德国",
    "印度",
    "埃及",
    "俄罗斯",
    "意大利",
    "加拿大",
    "韩国",
)
ZH_TOPICS = (
    "春天",
    "大海",
    "月亮",
    "友谊",
    "历史",
    "人工智能",
    "足球",
    "恐龙",
    "黑洞",
    "音乐",
    "故乡",
    "猫",
    "环境保护",
    "量子力学",
)
ZH_PEOPLE = ("李白", "孔子", "爱因斯坦", "鲁迅", "牛顿", "秦始皇", "诸葛亮", "莎士比亚")
ZH_FOOD = ("红烧肉", "饺子", "蛋炒饭", "蛋糕", "面条")
NOUNS = (
    "car", "tree", "computer", "house", "phone", "mountain", "river", "robot", "guitar", "planet",
    "star", "doctor", "teacher", "king", "queen", "bridge", "train", "engine", "camera", "clock",
    "bicycle", "garden", "kitchen", "window", "language", "country", "city", "village", "market",
    "company", "contract", "law", "battery", "virus", "cell", "atom", "molecule", "triangle",
    "spider", "eagle", "whale", "horse", "tiger", "elephant", "penguin", "bird", "fish", "insect",
    "shirt", "shoe", "hat", "coat", "chair", "table", "lamp", "mirror", "carpet", "door", "roof",
    "movie", "novel", "poet", "painter", "song", "violin", "drum", "dance", "festival", "holiday",
    "election", "war", "treaty", "empire", "temple", "castle", "tower", "desert", "island", "lake",
    "storm", "rainbow", "earthquake", "cloud", "email", "website", "password", "database", "server",
    "keyboard", "screen", "algorithm", "theorem", "matrix", "vector", "neuron", "medicine", "diet",
    "salad", "sandwich", "coffee", "tea", "cheese", "chocolate", "restaurant", "hotel", "ticket",
    "passport", "airport", "plane", "rocket", "satellite", "telescope", "microscope", "job", "bank",
)  # fmt: skip
VERBS = (
    "fix", "build", "paint", "sell", "buy", "clean", "open", "close", "draw", "design", "move",
    "teach", "learn", "explain", "describe", "review", "improve", "install", "repair", "grow",
    "cook", "eat", "find", "choose", "hide", "love", "hate", "visit", "photograph", "borrow",
    "invent", "publish", "edit", "translate", "rewrite", "print", "send", "cancel", "book",
)  # fmt: skip
ADJECTIVES = (
    "slow", "fast", "expensive", "cheap", "beautiful", "strange", "famous", "dangerous", "old",
    "new",
    "blue", "red", "green", "heavy", "loud", "quiet", "healthy", "popular", "rare", "modern",
    "warm",
    "cold", "broken", "dirty", "small", "big", "funny", "sad", "interesting", "intelligent",
)  # fmt: skip
ZH_NOUNS = (
    "汽车", "电脑", "手机", "房子", "老虎", "熊猫", "飞机", "火车", "咖啡", "茶", "电影", "小说",
    "医生", "老师", "长城", "黄河",
    "太阳", "地球", "火星", "病毒", "细胞", "原子", "吉他", "钢琴", "足球", "篮球", "自行车",
    "衣服", "面包", "牛奶", "鲜花",
    "桌子", "椅子", "窗户", "银行", "股票", "法律", "合同", "算法", "互联网", "春节", "月饼",
    "西瓜",
)  # fmt: skip
SYLLABLES = (
    "ba", "ke", "lo", "mi", "ru", "sta", "tren", "vor", "qui", "zan", "ple", "gra", "fi", "dro",
    "ush", "ent", "ab", "ol", "ix", "yum", "cha", "ter",
)  # fmt: skip


def _filler(rng: Random, words: tuple[str, ...]) -> str:
    """A listed word, or one time in five an invented one."""
    if rng.random() < 0.2:
        return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))
    return rng.choice(words)


def _long_sum(rng: Random, language: Language) -> str:
    """A sum or difference with a number of more than four digits, put as the short ones are."""
    longest = rng.randint(5, 9)
    numbers = [rng.randrange(10 ** (n - 1), 10**n) for n in (longest, rng.randint(2, longest))]
    a, b = sorted(numbers, reverse=True)
    return rng.choice(rng.choice((ADD, SUBTRACT))[language]).format(a=a, b=b)


def beyond_question(rng: Random, language: Language) -> str:
    """A request to decline: one in five is a sum that is too long."""
    if rng.random() < 0.2:
        return _long_sum(rng, language)
    big = [rng.randrange(10 ** (n - 1), 10**n) for n in rng.choices((5, 6, 7, 8, 9), k=2)]
    mid = [rng.randrange(10 ** (n - 1), 10**n) for n in rng.choices((2, 3, 4), k=2)]
    en = language == "en"
    nouns = NOUNS if en else ZH_NOUNS
    question = rng.choice(BEYOND_EN if en else BEYOND_ZH).format(
        place=_filler(rng, PLACES) if en else rng.choice(ZH_PLACES),
        topic=_filler(rng, TOPICS) if en else rng.choice(ZH_TOPICS + ZH_NOUNS),
        noun=_filler(rng, nouns) if en else rng.choice(nouns),
        noun2=_filler(rng, nouns) if en else rng.choice(nouns),
        verb=_filler(rng, VERBS), adjective=_filler(rng, ADJECTIVES),
        person=rng.choice(PEOPLE if en else ZH_PEOPLE),
        food=rng.choice(("soup", "pasta", "bread", "pizza", "curry") if en else ZH_FOOD),
        form=rng.choice(("poem", "story", "song", "letter", "haiku", "speech", "short essay")),
        code=rng.choice(("Python", "Java", "C", "Rust", "JavaScript", "SQL")),
        task=rng.choice(TASKS),
        language=rng.choice(("French", "German", "Spanish", "Chinese", "Latin")),
        big=big[0], big2=big[1], mid=mid[0], mid2=mid[1],
        small=rng.randint(10, 40), small2=rng.randint(41, 60), digit=rng.randint(2, 9),
        percent=rng.randint(2, 95), late=rng.randint(20, 99),
    )  # fmt: skip
    return question[0].upper() + question[1:] if rng.random() < 0.6 else question
