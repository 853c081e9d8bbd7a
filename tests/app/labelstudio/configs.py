"""Labelling configs of these tests."""

ANSWERS = '<Text name="answer1" value="$answer1"/><Text name="answer2" value="$answer2"/>'
PAIRWISE = '<Pairwise name="pw" toName="answer1,answer2" selectionStyle="border: 1px solid"/>'
PROMPT = '<Text name="prompt" value="$prompt"/>'
NOTE = '<TextArea name="margin" toName="prompt"/>'
CHAT = '<Paragraphs name="chat" value="$chat" nameKey="who" textKey="said"/>'


def config(*tags: str) -> str:
    """A labelling config of these tags, nested as people nest them."""
    return f'<View className="root"><Style>.root {{ margin: 0 }}</Style><View>{"".join(tags)}</View></View>'


PLAIN = config(PROMPT, PAIRWISE, ANSWERS)
