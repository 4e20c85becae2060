"""The explanation in Chinese: the same facts as in English, in sentences of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bertprobe.report.explanation import frame
from bertprobe.report.explanation.claims import activation, verdict
from bertprobe.report.explanation.facts import Facts, Module, Run
from bertprobe.report.explanation.frame import act, narrowing_name, pooler_name, real, safe, share, up_projection_name
from bertprobe.report.sections import Block, Grid, Prose, Verbatim

WORDS = {
    "text": "文本  ",
    "tokens": "token ",
    "token ids": "token id 序列",
    "embeddings": "嵌入层",
    "layer": "层",
    "attention": "自注意力",
    "add & norm": " + 残差 + LayerNorm",
    "narrowing": "全连接，降回 H 维",
    "first token": "只取首个 token：[:, 0]",
    "step": "步骤",
    "shape": "形状",
    "values": "前几个值",
    "attended": "x，自注意力的输出",
    "dense": "全连接之后",
    "activated": "激活之后",
    "output": "{0} 之后",
    "up": "up，全连接之后",
    "product": "act(gate) × up",
    "last_hidden_state": "last_hidden_state",
    "first": "[:, 0]",
    "pooled": "激活之后",
    "source": "transformers {}，{}，第 {} 行：",
    "wrong": "此处不成立",
    "right": "此处成立",
    "open": "无法判定",
}

TITLES = {
    "model": "模型与文本",
    "place": "在模型里的位置",
    "formula": "公式",
    "steps": "逐步走一遍",
    "source": "源码",
    "comparison": "异同对照",
    "claims": "常见说法，逐条核对",
    "next": "接下来可以试试",
}

VERDICTS = {
    "trained": "训练过",
    "untrained": "未训练",
    "probably untrained": "很可能未训练",
    "undecided": "难以判断",
    "cannot tell": "无法判断",
    "flattened": "谱被压平，无法判断",
    "too small to tell": "矩阵太小，无法判断",
}


def listed(names: tuple[str, ...], word: str = "和") -> str:
    """Names of code as a list: `A`、`B` 和 `C`."""
    ticked = [f"`{safe(name)}`" for name in names]
    return ticked[0] if len(ticked) == 1 else f"{'、'.join(ticked[:-1])} {word} {ticked[-1]}"


# ------------------------------------------------------------------------------------------------ sections


def model(facts: Facts, module: str) -> Iterator[Block]:
    hidden, inner = (f"{n:,}" if n is not None else "未知" for n in (facts.hidden_size, facts.intermediate_size))
    yield Prose(
        f"`{safe(facts.model)}` 属于 `{safe(facts.family)}` 家族：共 {facts.layers:,} 层，隐藏维度 `H = {hidden}`，"
        f"中间维度 `I = {inner}`，参数量 {facts.parameters:,}。"
    )
    run = facts.run
    if run is None:
        yield Prose("这个模型没能跑文本，所以形状里用字母表示：B 是文本条数，S 是 token 数。原因（程序原文）：")
    else:
        cut = f"（另有 {run.truncated:,} 个被截去）" if run.truncated else ""
        yield Prose(
            f"下面的数字全部出自这个模型本身：输入一条文本，`S = {len(run.tokens)}` 个 token{cut}，"
            f"由 {run.backend} 以 float32 算出。形状的第一维是 batch，这里是 1。"
        )
    yield frame.text_lines(facts, WORDS)
    if unknown := frame.unknown(facts):
        yield Prose(f"这条文本里有 {unknown:,} 个 token 不在词表中。")


def place(facts: Facts, module: str) -> Iterator[Block]:
    yield frame.path(facts, WORDS, module)
    if module in ("intermediate", "both") and facts.up_projection is not None:
        yield Prose(_up_projection_place(facts))
    if module in ("pooler", "both"):
        yield Prose(_pooler_place(facts) if facts.pooler else no_pooler(facts))


def _up_projection_place(facts: Facts) -> str:
    name = up_projection_name(facts)
    if not facts.native:
        return (
            f"升维在每层的注意力之后，一条文本要经过 {facts.called:,} 次"
            f"{'，每次都是同一份权重' if facts.called > facts.layers else ''}。"
            f"在这个家族里，它由 `{name}` 类完成，前后的结构和 BERT 不尽相同。"
        )
    return (
        f"`{name}` 每层一个，一条文本要经过 {facts.called:,} 次。在它之前，自注意力已经让 token 之间交换过信息；"
        f"`{name}` 把每个 token 的向量从 H 维升到 I 维；随后 `{narrowing_name(facts)}` 再降回 H 维，加上残差，做 "
        "LayerNorm。"
    )


def _pooler_place(facts: Facts) -> str:
    return (
        f"{_the_pooler(facts)} 整个模型只有一个，接在最后一层之后。它只取首个 token 的向量，得到 `pooler_output`；"
        "编码器自己不再用到这个结果，它是留给上层分类器的。"
    )


def _the_pooler(facts: Facts) -> str:
    return f"`{pooler_name(facts)}`" if facts.library.pooling else "pooler"


def no_pooler(facts: Facts) -> str:
    kind, what = facts.absence or ("unnamed", "")
    reason = {
        "by design": f"`{safe(facts.family)}` 在设计上就没有。",
        "classifiers": f"{safe(what)} 只有分类模型才带 pooler。",
        "first token": f"{safe(what)} 直接用首个 token 的隐藏状态。",
        "end token": f"{safe(what)} 直接用结尾 token 的隐藏状态。",
        "family": f"`{safe(what)}` 家族没有 pooler。",
        "class": f"保存它的 `{safe(what)}` 不带 pooler。",
        "lost": f"配置里写的 `{safe(what)}` 带有 pooler，但文件里没有它的张量。",
        "head": "和编码器存在一起的任务头，所属的类不带 pooler。",
        "other": f"`{safe(what)}` 不属于这个编码器。",
        "unnamed": "没有名为 `pooler.dense` 的张量。",
    }[kind]
    return f"这个 checkpoint 里没有 pooler：{reason}"


def formula(facts: Facts, module: str) -> Iterator[Block]:
    if module in ("intermediate", "both") and facts.up_projection is not None:
        yield Prose(f"`{up_projection_name(facts)}`，每个 token 各算各的：")
        yield frame.up_projection_formula(facts)
        yield Prose(_about_the_up_projection(facts))
    if module in ("pooler", "both") and frame.pools(facts):
        there = "" if facts.pooler else "（假如这里有的话）"
        yield Prose(f"{_the_pooler(facts)}{there}：")
        yield frame.pooler_formula(facts)
        first = f"这里的首个 token 是 `{safe(facts.run.tokens[0])}`。" if facts.run else ""
        yield Prose(f"{first}tanh 把每一维都压进 `(−1, 1)`。")


def _about_the_up_projection(facts: Facts) -> str:
    name = activation(facts)
    known = f"激活函数由配置决定，这里是 `{safe(name)}`。" if name else "配置没有写明激活函数，暂以 `act` 代替。"
    if facts.gated:
        return f"{known}两个全连接层并排：一个是门，决定另一个放行多少。"
    return f"{known}W 的每一行是一个神经元：它在 x 里寻找某一种模式。"


def steps(facts: Facts, module: str) -> Iterator[Block]:
    run = facts.run
    if run is None:
        return
    if module in ("intermediate", "both"):
        yield Prose(f"第 0 层的 `{up_projection_name(facts)}`，数值取自{_token(run)}：")
        yield frame.steps(run.up_projection, WORDS, narrowing_name(facts))
        yield Prose(f"对它响应最强的是神经元 {run.neuron.unit}：")
        yield frame.neuron_sum(facts, run.neuron)
    if module in ("pooler", "both") and run.pooled is not None:
        yield Prose(f"{_the_pooler(facts)}：")
        yield frame.steps(run.pooling, WORDS)
        if run.dimension is not None:
            yield Prose(f"绝对值最大的是第 {run.dimension.unit} 维：")
            yield frame.dimension_sum(facts, run.dimension)


def _token(run: Run) -> str:
    if not run.rows_are_tokens:
        return f"第 {run.token} 行"
    return f"第 {run.token} 个 token“{safe(run.tokens[run.token])}”（从 0 数起）"


def source(facts: Facts, module: str) -> Iterator[Block]:
    library = facts.library
    if module in ("intermediate", "both"):
        if library.up_projection is None:
            yield Prose("在已安装的 transformers 里，这个家族的升维没有单独的类。")
        else:
            yield frame.code(facts, library.up_projection, WORDS)
            if not library.up_projection.name.endswith("Intermediate"):
                yield Prose("这个类不只是升维，降回 H 维也在里面。")
    if module in ("pooler", "both"):
        if library.pooling is not None:
            yield frame.code(facts, library.pooling, WORDS)
        elif facts.pooler is not None:
            yield Prose("它的 pooler 没有单独的类：模型里直接放了一个全连接层和激活函数。")
        else:
            yield Prose(f"transformers 里没有 `{safe(facts.family)}` 的 pooler 类。")


def comparison(facts: Facts, module: str) -> Iterator[Block]:
    if facts.up_projection is None or not frame.pools(facts):
        return
    yield Prose(
        "相同之处：都是一个全连接层加一个激活函数，自身没有 dropout、残差和 LayerNorm，也都不看 attention mask。"
        if facts.native
        else "相同之处：都是全连接层加激活函数，也都不看 attention mask。"
    )
    head = ("", up_projection_name(facts), pooler_name(facts))
    yield Grid(head, tuple(_rows(facts, facts.up_projection, facts.pooler)))


def _rows(facts: Facts, wide: Module, pooler: Module | None) -> Iterator[tuple[str, str, str]]:
    sizes = frame.Shapes.of(facts)
    yield "位置", "每层一个，在自注意力之后", "全模型一个，在最后一层之后"
    yield "本模型中", f"{wide.count:,} 个", f"{pooler.count if pooler else 0:,} 个"
    yield "输入", "每个 token，各算各的", "只读首个 token"
    yield "形状", f"{sizes.hidden} → {sizes.inner}", f"{sizes.hidden} → {sizes.vector}"
    yield (
        "激活函数",
        f"{act(wide)}，由配置决定",
        f"{act(pooler) if pooler else 'tanh'}，{frame.fixed(facts, '写死在类里', '由配置决定')}",
    )
    if facts.run is not None and not facts.gated:
        yield "值域", f"这里最低 {real(facts.run.compared.lowest)}，无上界", "−1 到 1 之间"
    yield "权重 + 偏置", frame.sizes(wide), frame.sizes(pooler) if pooler else "–"
    of_all = [f"{m.parameters:,}（{share(m.parameters, facts.parameters)}）" if m else "0" for m in (wide, pooler)]
    yield "参数量", of_all[0], of_all[1]
    yield "这份权重", _words(wide), _words(pooler) if pooler else "没有"
    yield "靠什么训练", "任何训练目标", "接在 pooler_output 上的损失；BERT 里是下一句预测（NSP）"
    yield "用来做什么", "给下一层提供更丰富的特征", "一条文本一个向量，交给分类器"
    if facts.library.with_pooler and facts.native:
        yield from _classes(facts)


def _classes(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """The model classes that have it and those that do not, by the installed source."""
    having, lacking = facts.library.with_pooler, facts.library.without_pooler
    start, names = frame.without((*having, *lacking))
    yield f"{start}… 里有", "全部", "、".join(names[: len(having)])
    if lacking:
        yield f"{start}… 里没有", "无", "、".join(names[len(having) :])


def _words(module: Module) -> str:
    counts = [
        VERDICTS[word] if module.count == 1 else f"{count} 个{VERDICTS[word]}"
        for word, count in module.verdicts.items()
    ]
    return f"{'，'.join(counts)}（边缘比 {frame.edges(module)}）" if counts else "未测"


def go_on(facts: Facts, module: str) -> Iterator[Block]:
    yield Verbatim(frame.commands(facts, module), "sh")


SECTIONS: Mapping[str, Callable[[Facts, str], Iterator[Block]]] = {
    "model": model,
    "place": place,
    "formula": formula,
    "steps": steps,
    "source": source,
    "comparison": comparison,
    "next": go_on,
}


# ------------------------------------------------------------------------------------------------ claims


def _subject(facts: Facts) -> str:
    name = up_projection_name(facts)
    return f"`{name}` " if name.endswith("Intermediate") else "升维这一步"


def relu(facts: Facts) -> tuple[str, str]:
    run, name, said = facts.run, str(activation(facts)), f"{_subject(facts)}用的是 ReLU"
    if name == "relu":
        return said, "配置写的就是 `relu`。原版 BERT 用的是 GELU。"
    shown = f"配置写的是 `{safe(name)}`。"
    if run is not None and run.compared.relu is not None:
        shown += (
            f"在这条文本上换成 ReLU，激活值最多会差 {real(run.compared.relu)}："
            f"{share(run.compared.negative)} 的输入小于零，ReLU 会把它们全部变成 0。"
        )
    return said, shown


def tanh_gelu(facts: Facts) -> tuple[str, str]:
    said, name = "它的 GELU 是带 tanh 的那个公式", safe(str(activation(facts)))
    compared = facts.run.compared if facts.run else None
    if compared is None or compared.tanh is None or compared.gelu is None:
        return said, f"配置写的是 `{name}`。"
    if compared.tanh < compared.gelu:
        return said, f"`{name}` 正是那个公式。在这条文本上，它和用 erf 算的精确 GELU 最多差 {real(compared.gelu)}。"
    seen = "不大，但远不止舍入误差" if compared.tanh > frame.ROUNDING else "激活值太小，看不出差别"
    return said, (
        f"`{name}` 是用 erf 算的精确版。带 tanh 的公式只是近似（`gelu_new`、`gelu_pytorch_tanh`），"
        f"在这条文本上最多差 {real(compared.tanh)}：{seen}。"
    )


def whole_network(facts: Facts) -> tuple[str, str]:
    return f"{_subject(facts)}就是前馈网络（FFN）", (
        f"它只是前一半，H → I。后一半 I → H 是 `{narrowing_name(facts)}`，残差和 LayerNorm 也在那里。"
        f"`{up_projection_name(facts)}` 的输出和 `output.dense` 的输入逐比特一致。"
    )


def mixes_tokens(facts: Facts) -> tuple[str, str]:
    return "它让 token 之间交换信息", (
        "能做到这一点的只有自注意力。把一个 token 的向量单独送进来，结果不变（误差在最大值的 1e-5 以内）。"
        if facts.run and facts.run.alone
        else "但把一个 token 的向量单独送进来，结果却变了：这不正常，值得查一查。"
    )


def hidden_states(facts: Facts) -> tuple[str, str]:
    sizes = frame.Shapes.of(facts)
    return "`output_hidden_states=True` 会返回它的输出", (
        f"`hidden_states` 是 {facts.called + 1} 个形状为 {sizes.hidden} 的张量：嵌入层的输出，加上每一层的输出。"
        f"升维后的 {sizes.inner} 不会离开它所在的层；想看它，可以挂 forward hook，或者用 `bertprobe activations`。"
    )


def four_times(facts: Facts) -> tuple[str, str]:
    hidden, inner = facts.hidden_size or 1, facts.intermediate_size or 0
    return "`I` 总是等于 `4H`", (
        f"{inner:,} / {hidden:,} = {inner / hidden:.4g}。这是配置项 `intermediate_size`，不是定律。"
    )


def always_there(facts: Facts) -> tuple[str, str]:
    said, library = "每个 checkpoint 都有 pooler", facts.library
    if facts.pooler is not None:
        shown = "这一个有。"
        if library.without_pooler and facts.native:
            shown += f"但只要用 {listed(library.without_pooler, '或')} 加载再保存，它就丢了，日志里顶多提一句。"
        return said, shown
    shown = no_pooler(facts)
    if library.with_pooler and frame.invented(facts):
        shown += (
            f"用 {listed(library.with_pooler[:1])} 加载时，会补上一个随机初始化的 pooler，每次加载都不一样，"
            "而且只在日志里提一句。"
        )
    return said, shown + "要句向量，请直接对隐藏状态做池化。"


def there_so_trained(facts: Facts) -> tuple[str, str]:
    said, pooler = "有 pooler，就说明它训练过", facts.pooler
    scale = f"它的最大奇异值是同尺寸、同尺度随机矩阵的 {frame.edges(pooler) if pooler else ''} 倍"
    shown = {
        "trained": f"{scale}：看得出训练的痕迹。至于好不好用，这个数说明不了。",
        "untrained": f"{scale}，偏置也全为零：没有任何训练的痕迹。它的输出只是把首个 token 的各维随机混合了一遍。",
        "probably untrained": f"{scale}：除了偏置，没有任何训练过的迹象。",
        "cannot tell": f"{scale}，但行、列或均值同样缩放过的随机矩阵也是如此，无法判断。",
        "flattened": f"{scale}：比随机矩阵还要平，像正交矩阵那样，什么也说明不了。",
        "undecided": f"{scale}：介于噪声和训练之间，难下结论。",
        "too small to tell": f"{scale}，但边长小于 64 的矩阵太小，下不了结论。",
    }
    return said, shown.get(str(verdict(facts)), f"{scale}。")


def by_next_sentence(facts: Facts) -> tuple[str, str]:
    said, saved = "训练过的 pooler，都是靠下一句预测（NSP）训练的", facts.saved_by
    if not facts.nsp:
        return said, f"`{safe(facts.family)}` 的预训练没有 NSP：这个 pooler 就算训练过，也是后来的事。"
    if facts.next_sentence_head:
        return (
            said,
            f"有个有力的旁证：NSP 的任务头就在同一份权重里，接在这个 pooler 上，名为 `{facts.next_sentence_head}`。",
        )
    by = f"配置里写的类是 {listed(saved)}。" if saved else ""
    return said, (
        f"这份权重里没有 NSP 的任务头，而靠什么训练的，从权重本身看不出来。{by}"
        "分类微调也会训练 pooler，SimCSE 则把自己的 MLP 存在这个名字下。"
    )


def mean_pooling(facts: Facts) -> tuple[str, str]:
    pooled, others = frame.pooled(facts), (facts.run.hidden[1] if facts.run else 1) - 1
    return "pooler 就是对所有 token 求平均", (
        f"它只读首个 token 的向量；其余 {others:,} 个 token 的信息，全靠自注意力事先传过来。在这条文本上，"
        f"`pooler_output` 与均值向量的余弦相似度是 {real(pooled.to_mean or 0)}，"
        f"首个 token 与均值向量的是 {real(pooled.first_to_mean or 0)}。"
    )


def first_hidden_state(facts: Facts) -> tuple[str, str]:
    pooled = frame.pooled(facts)
    return "`pooler_output` 就是 `last_hidden_state[:, 0]`", (
        f"那是 pooler 的输入，中间还隔着全连接层和 {act(facts.pooler)}：这里各维最多相差 {real(pooled.from_first)}，"
        f"两者的余弦相似度是 {real(pooled.to_first or 0)}。"
    )


def sentence_vector(facts: Facts) -> tuple[str, str]:
    said = "`pooler_output` 就是这个模型的句向量"
    if facts.pools_by:
        return said, f"模型附带的 sentence-transformers 配置用的是 {listed(facts.pools_by)}。"
    return said, (
        "模型没有附带 sentence-transformers 配置。BERT 原本的 pooler 学的是哪句接着哪句，不是哪句像哪句："
        "要用它，先和均值向量比一比。"
    )


def minds_the_mask(facts: Facts) -> tuple[str, str]:
    takes = facts.library.pooling.takes if facts.library.pooling else ()
    return "pooler 会避开 padding", (
        f"它根本不知道有 padding：`forward` 只接收 {listed(takes)}。mask 在前面的自注意力里起作用；漏传 mask，"
        "padding 就会改变首个 token 的向量，`pooler_output` 也跟着变。如果是左侧 padding，首个 token 就成了填充符。"
    )


def unit_length(facts: Facts) -> tuple[str, str]:
    pooled = frame.pooled(facts)
    return "`pooler_output` 的长度是 1", (
        f"tanh 限制的是每一维，不是长度：这里长度为 {real(pooled.norm)}，各维在 {real(pooled.lowest)} 到 "
        f"{real(pooled.highest)} 之间，{share(pooled.saturated)} 超出 ±0.99。要算点积，先归一化。"
    )


CLAIMS: Mapping[str, Callable[[Facts], tuple[str, str]]] = {
    "relu": relu,
    "tanh-gelu": tanh_gelu,
    "whole-network": whole_network,
    "mixes-tokens": mixes_tokens,
    "hidden-states": hidden_states,
    "four-times": four_times,
    "always-there": always_there,
    "there-so-trained": there_so_trained,
    "by-next-sentence": by_next_sentence,
    "mean-pooling": mean_pooling,
    "first-hidden-state": first_hidden_state,
    "sentence-vector": sentence_vector,
    "minds-the-mask": minds_the_mask,
    "unit-length": unit_length,
}
