//! A chat judged message by message, so that a plugin that rewrites text can rewrite it where it stands.
//!
//! What a plugin says about the messages becomes one verdict about the row: the row goes for the first message that does,
//! counts add up, and of other scores the largest stays.

use luthier_core::{StageError, StageResult};
use luthier_plugins::{ScoreColumn, ScoreKind, TextBatch, TextColumn, Verdicts};
use serde_json::Value;

/// The messages of a batch of chats, in order.
pub(super) struct Turns {
    chats: Vec<Value>,
    /// The chat of each text.
    rows: Vec<usize>,
    pub texts: TextBatch<'static>,
}

/// The texts of a chat: the contents of its messages, piece by piece where they are lists of pieces. What is no list of
/// messages is one text.
fn pieces(chat: &mut Value) -> Vec<&mut String> {
    let mut found = Vec::new();
    match chat {
        Value::String(text) => found.push(text),
        Value::Array(messages) => {
            for content in messages.iter_mut().filter_map(|message| message.get_mut("content")) {
                match content {
                    Value::String(text) => found.push(text),
                    Value::Array(parts) => {
                        found.extend(parts.iter_mut().filter_map(|part| match part.get_mut("text") {
                            Some(Value::String(text)) => Some(text),
                            _ => None,
                        }))
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    found
}

impl Turns {
    /// # Errors
    /// More than 4 GiB of text.
    pub fn of(batch: &TextBatch<'_>) -> StageResult<Self> {
        let mut chats: Vec<Value> = batch
            .texts
            .iter()
            .map(|text| match serde_json::from_str(text) {
                Ok(chat @ Value::Array(_)) => chat,
                _ => Value::String(text.to_owned()),
            })
            .collect();
        let (mut rows, mut texts): (Vec<usize>, Vec<&str>) = Default::default();
        for (row, chat) in chats.iter_mut().enumerate() {
            for piece in pieces(chat) {
                rows.push(row);
                texts.push(piece);
            }
        }
        let column = |texts: &mut dyn Iterator<Item = &str>| {
            TextColumn::from_texts(texts)
                .ok_or_else(|| StageError::input("filter::too_long", "a batch holds more than 4 GiB of text"))
        };
        let reads = batch.reads.iter().map(|read| column(&mut rows.iter().map(|row| read.get(*row))));
        let texts = TextBatch { reads: reads.collect::<StageResult<_>>()?, texts: column(&mut texts.into_iter())? };
        Ok(Self { chats, rows, texts })
    }

    /// The row that text `at` is of.
    pub fn row(&self, at: usize) -> usize {
        self.rows[at]
    }

    /// The verdicts about the texts as verdicts about the chats.
    pub fn join(mut self, verdicts: Verdicts, scores: &[ScoreColumn]) -> Verdicts {
        let (rows, texts) = (self.chats.len(), self.rows.len());
        let mut joined = Verdicts::keep_all(rows, scores.len());
        for (row, drop) in self.rows.iter().zip(&verdicts.drop) {
            if joined.drop[*row] == 0 {
                joined.drop[*row] = *drop;
            }
        }
        if texts > 0 {
            for (score, (column, values)) in scores.iter().zip(verdicts.scores.chunks_exact(texts)).enumerate() {
                let joined = &mut joined.scores[score * rows..(score + 1) * rows];
                let mut seen = vec![false; rows];
                for (row, value) in self.rows.iter().zip(values) {
                    let known = &mut joined[*row];
                    *known = match column.kind {
                        ScoreKind::Count => *known + value,
                        ScoreKind::Real | ScoreKind::Flag if seen[*row] => known.max(*value),
                        ScoreKind::Real | ScoreKind::Flag => *value,
                    };
                    seen[*row] = true;
                }
            }
        }
        for (at, why) in verdicts.faults {
            if joined.faults.last().is_none_or(|(row, _)| *row != self.rows[at]) {
                joined.faults.push((self.rows[at], why));
            }
        }
        let mut edits = verdicts.edits.into_iter().peekable();
        while let Some(row) = edits.peek().map(|(at, _)| self.rows[*at]) {
            let first = self.rows.partition_point(|other| *other < row);
            let chat = &mut self.chats[row];
            let mut places = pieces(chat);
            while let Some((at, text)) = edits.next_if(|(at, _)| self.rows[*at] == row) {
                *places[at - first] = text;
            }
            let text = if let Value::String(text) = chat { std::mem::take(text) } else { chat.to_string() };
            joined.edits.push((row, text));
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_messages_is_said_of_chats() {
        let chats = [
            r#"[{"content":"a","role":"user"},{"content":null,"role":"assistant","tool_calls":[]},{"content":"b\nc","role":"tool"}]"#,
            "[]",
            r#"[{"content":[{"text":"d","type":"text"},{"text":"e","type":"text"}],"role":"user"}]"#,
            "no chat",
        ];
        let read = TextColumn::from_texts(["0", "1", "2", "3"]).unwrap();
        let turns = Turns::of(&TextBatch { texts: TextColumn::from_texts(chats).unwrap(), reads: vec![read] }).unwrap();
        assert_eq!(turns.texts.texts.iter().collect::<Vec<_>>(), ["a", "b\nc", "d", "e", "no chat"]);
        assert_eq!(turns.texts.reads[0].iter().collect::<Vec<_>>(), ["0", "0", "2", "2", "3"]);
        let scores = [ScoreKind::Count, ScoreKind::Real].map(|kind| ScoreColumn { name: String::new(), kind });
        let verdicts = Verdicts {
            drop: vec![0, 2, 0, 0, 1],
            scores: vec![1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, -3.0, -4.0, -5.0],
            edits: vec![(1, "<b>".to_owned()), (3, "\"".to_owned()), (4, "x".to_owned())],
            faults: vec![(2, "first".to_owned()), (3, "second".to_owned())],
        };
        let joined = turns.join(verdicts, &scores);
        assert_eq!(joined.drop, [2, 0, 0, 1]);
        assert_eq!(joined.scores, [3.0, 0.0, 7.0, 5.0, -1.0, 0.0, -3.0, -5.0]);
        assert_eq!(joined.faults, [(2, "first".to_owned())]);
        let edited = |row: usize| joined.edits.iter().find(|(at, _)| *at == row).map(|(_, text)| text.as_str());
        assert_eq!(edited(0).unwrap(), chats[0].replace("b\\nc", "<b>"));
        assert_eq!(edited(2).unwrap(), chats[2].replace("\"e\"", "\"\\\"\""));
        assert_eq!((edited(1), edited(3)), (None, Some("x")));
    }
}
