"""The fragments that word problems are written from."""

NAMES = (
    "Ana", "Tom", "Mia", "Ben", "Lily", "Sam", "Emma", "Noah", "Olivia", "Jack", "Sara", "Max",
    "Nina", "Leo", "Zoe", "Omar", "Priya", "Kenji", "Lucia", "Ivan", "Maria", "David", "Alice",
    "Bob", "Grace", "Henry", "Chloe", "Ali", "Rosa", "Peter", "Julia", "Liam", "Ella", "Raj",
)  # fmt: skip
OBJECTS = (
    "apples", "marbles", "books", "pencils", "stickers", "cards", "coins", "cookies", "eggs",
    "flowers", "shells", "stamps", "oranges", "balloons", "candies", "toys", "stones", "pens",
    "cupcakes", "tickets", "beads", "nuts", "peaches", "buttons", "photos", "postcards", "pears",
)  # fmt: skip
OPENINGS = (
    "{n} has {a} {o}.", "{n} had {a} {o}.", "{n} starts with {a} {o}.", "{n} owns {a} {o}.",
    "There are {a} {o} in {n}'s box.", "{n} collected {a} {o}.", "At first {n} has {a} {o}.",
    "In the morning {n} has {a} {o}.", "{n} keeps {a} {o} at home.", "{n} counted {a} {o}.",
)  # fmt: skip
GAINS = (
    "{p} buys {b} more.", "{p} gets {b} more from {m}.", "{m} gives {p} {b} more.",
    "{p} finds {b} more.", "{p} receives {b} more {o}.", "Then {p} buys {b} more {o}.",
    "{p} picks up {b} more.", "{m} brings another {b}.", "{p} wins {b} more {o}.",
    "Then {m} hands {p} {b} more.", "{p} adds {b} more.", "Later {p} collects {b} more.",
)  # fmt: skip
LOSSES = (
    "{p} gives {b} to {m}.", "{p} gives away {b}.", "{p} loses {b}.", "{p} sells {b}.",
    "Then {p} gives {m} {b} of them.", "{p} uses {b}.", "{p} throws away {b} {o}.", "{b} get lost.",
    "{p} hands {b} of them to {m}.", "{m} takes {b} of them.", "Later {p} sells {b} {o}.",
    "Then {b} of them break.", "{p} donates {b}.",
)  # fmt: skip
GROUPS = (
    "{n} buys {a} boxes with {b} {o} in each box.", "{n} has {a} bags of {b} {o} each.",
    "{n} packs {a} boxes with {b} {o} each.", "{n} has {a} shelves with {b} {o} on each.",
    "{n} fills {a} bags with {b} {o} each.", "{n} has {a} rows of {b} {o}.",
    "Each of {n}'s {a} friends brings {b} {o}.", "{n} buys {a} packs of {b} {o}.",
    "{n} gets {b} {o} a day for {a} days.",
)  # fmt: skip
ASKS = (
    "How many {o} does {n} have now?", "How many {o} are there now?", "How many {o} are left?",
    "How many does {n} have in the end?", "How many {o} does {n} have?", "How many are there now?",
    "Find the number of {o} now.", "What is the number of {o} in the end?",
)  # fmt: skip
ZH_NAMES = (
    "小明",
    "小红",
    "小华",
    "小丽",
    "小刚",
    "小芳",
    "小强",
    "小美",
    "小东",
    "小雨",
    "乐乐",
    "安安",
)
ZH_OBJECTS = (
    ("个", "苹果"), ("本", "书"), ("支", "铅笔"), ("颗", "糖"), ("张", "卡片"), ("枚", "硬币"),
    ("朵", "花"),
    ("个", "气球"), ("张", "邮票"), ("个", "橘子"), ("块", "饼干"), ("个", "鸡蛋"), ("个", "玩具"),
    ("颗", "珠子"),
)  # fmt: skip
ZH_OPENINGS = (
    "{n}有{a}{u}{o}",
    "{n}原来有{a}{u}{o}",
    "{n}一开始有{a}{u}{o}",
    "{n}家里有{a}{u}{o}",
    "早上{n}有{a}{u}{o}",
)
ZH_GAINS = (
    "又买了{b}{u}", "{m}又给了{n}{b}{u}", "后来又得到{b}{u}", "又捡到{b}{u}", "再买来{b}{u}{o}",
    "{m}送来{b}{u}",
    "妈妈又给了{b}{u}", "又收到{b}{u}{o}",
)  # fmt: skip
ZH_LOSSES = (
    "给了{m}{b}{u}", "送给{m}{b}{u}", "用掉{b}{u}", "卖掉{b}{u}", "丢了{b}{u}", "{m}拿走{b}{u}",
    "然后送出{b}{u}",
    "又送给朋友{b}{u}",
)  # fmt: skip
ZH_GROUPS = (
    "{n}买了{a}盒{o}，每盒{b}{u}",
    "{n}有{a}袋{o}，每袋{b}{u}",
    "架子有{a}层，每层放{b}{u}{o}",
    "{n}每天得到{b}{u}{o}，过了{a}天",
)
ZH_ASKS = (
    "现在有多少{u}{o}？",
    "{n}现在有多少{u}{o}？",
    "还剩多少{u}？",
    "现在一共有几{u}{o}？",
    "最后有多少{u}{o}？",
    "请问现在有几{u}？",
)
TWO_PRICES = (
    "A {x} costs {a} dollars and a {y} costs {b} dollars. {n} buys both and pays with "
    "{c} dollars. How much change does {n} get?",
    "{n} buys a {x} for {a} dollars and a {y} for {b} dollars. {n} had {c} dollars. "
    "How many dollars are left?",
    "{n} has {c} dollars and buys a {x} for ${a} and a {y} for ${b}. How much is left?",
)
MANY_OF_ONE = (
    "{n} buys {a} {x} at {b} dollars each and pays with {c} dollars. How much change does {n} get?",
    "{n} has {c} dollars and buys {a} {x} for {b} dollars each. How many dollars are left?",
    "Each of the {x} costs ${b}. {n} buys {a} of them with ${c}. How much is left?",
)
