"""The only place that knows how the page for judges looks: one HTML file with the videos in it, and no names.

Pairs come in an order of each judge's own, and so do their sides. Answers are kept in the browser, and saved
by the judge as a file. Nothing is sent anywhere.
"""

import base64
import io
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from omnihuman_jax.ablation import rating
from omnihuman_jax.ablation.study import Study
from omnihuman_jax.testsets.reading import open_testset


def page(study: Study, workdir: Path, key: Mapping[str, Any]) -> str:
    """The page of a key (`rating.new_key`)."""
    shown = {code: _video(workdir / each["file"]) for code, each in key["videos"].items()}
    content = {
        "format": rating.FORMAT,
        "study": study.title,
        "questions": rating.QUESTIONS,
        "pairs": [
            {"pair": pair, "videos": sorted(each["levels"]), "picture": _asked(key, each)}
            for pair, each in sorted(key["pairs"].items())
        ],
        "videos": shown,
        "pictures": _pictures(study, key),
    }
    data = json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(study.title)}: which is better?</title><style>{STYLE}</style></head>\n"
        f'<body><main>{BODY}</main>\n<script type="application/json" id="data">{data}</script>\n'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _asked(key: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The picture of a pair: of the clip that both videos show."""
    video = key["videos"][min(pair["levels"])]
    return f"{video['set']}/{video['clip']}"


def _video(path: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _pictures(study: Study, key: Mapping[str, Any]) -> dict[str, str]:
    """The reference pictures that the videos were to look like."""
    wanted = {(each["set"], each["clip"]) for each in key["videos"].values()}
    found = {}
    for videos in study.videos:
        if not any(name == videos.name for name, _ in wanted):
            continue
        testset = open_testset(videos.testset)
        for number, clip in enumerate(testset.ids.ids):
            if (videos.name, clip) in wanted:
                data = io.BytesIO()
                Image.fromarray(testset[number].reference).save(data, "PNG")
                picture = base64.b64encode(data.getvalue()).decode()
                found[f"{videos.name}/{clip}"] = f"data:image/png;base64,{picture}"
    return found


BODY = """
<h1>Which is better?</h1>
<p id="intro">You see two videos of the same person and sound, side by side. Say which is better, question by
question; where you cannot decide, say so. Nobody tells which is which, and sides change by chance. Your
answers stay in this browser until you save them as a file.</p>
<p id="where"></p>
<div id="pair">
  <figure><img id="picture" alt="the person asked for"><figcaption>who is asked for</figcaption></figure>
  <figure><video id="left" playsinline loop></video><figcaption>left</figcaption></figure>
  <figure><video id="right" playsinline loop muted></video><figcaption>right</figcaption></figure>
</div>
<p><button id="play">Play both</button> <button id="hear">Hear the right one</button></p>
<form id="questions"></form>
<p><button id="back">Back</button> <button id="next">Next</button> <button id="save">Save answers</button></p>
"""

STYLE = """
:root{--ink:#1d2430;--paper:#fbfaf7;--line:#d8d4c8;--strong:#23568c}
@media (prefers-color-scheme: dark){:root{--ink:#e8e6e1;--paper:#16181c;--line:#3b3e45;--strong:#7fb2e6}}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.4rem;margin:0 0 .5rem}
#pair{display:flex;gap:1rem;flex-wrap:wrap}
figure{margin:0;flex:1 1 14rem;text-align:center}
figure:first-child{flex:0 1 8rem}
video,img{width:100%;image-rendering:auto;background:#0002;border-radius:4px}
figcaption{font-size:.85rem;opacity:.75}
fieldset{border:0;border-top:1px solid var(--line);margin:0;padding:.6rem 0;display:flex;gap:1rem;
  flex-wrap:wrap}
legend{float:left;flex:1 1 22rem;padding:0}
label{white-space:nowrap}
button{font:inherit;color:inherit;background:none;border:1px solid var(--strong);border-radius:4px;
  padding:.3rem .9rem;cursor:pointer}
button:disabled{opacity:.4;cursor:default}
#save{background:var(--strong);color:var(--paper)}
"""

SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const place = 'omnihuman-rating:' + data.study + ':' + data.pairs.map(p => p.pair).join('').slice(0, 400);
const $ = id => document.getElementById(id);
function chance() { return crypto.getRandomValues(new Uint32Array(1))[0] / 4294967296; }
function shuffled(list) {
  const all = [...list];
  for (let i = all.length - 1; i > 0; i--) {
    const j = Math.floor(chance() * (i + 1));
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all;
}
function begin() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(8))];
  const rater = bytes.map(b => b.toString(16).padStart(2, '0')).join('');
  const order = shuffled(data.pairs).map(
    p => ({pair: p.pair, sides: shuffled(p.videos), picture: p.picture}));
  return {rater, order, at: 0, answers: {}};
}
let state;
try { state = JSON.parse(localStorage.getItem(place)) || begin(); } catch (error) { state = begin(); }
function keep() {
  try { localStorage.setItem(place, JSON.stringify(state)); } catch (error) { /* a private window */ }
}
function answered(entry) {
  return Object.keys(data.questions).every(q => (entry.pair + '|' + q) in state.answers);
}
function count() {
  const done = state.order.filter(answered).length, all = state.order.length;
  $('where').textContent = 'Pair ' + (state.at + 1) + ' of ' + all + '; ' + done + ' answered.';
}
function show() {
  const entry = state.order[state.at];
  count();
  $('picture').src = data.pictures[entry.picture] || '';
  $('left').src = data.videos[entry.sides[0]];
  $('right').src = data.videos[entry.sides[1]];
  hear('left');
  const form = $('questions');
  form.textContent = '';
  for (const [name, words] of Object.entries(data.questions)) {
    const set = form.appendChild(document.createElement('fieldset'));
    set.dataset.question = name;
    set.appendChild(document.createElement('legend')).textContent = words;
    for (const [value, said] of [['left', 'left'], ['right', 'right'], ['none', 'cannot decide']]) {
      const label = set.appendChild(document.createElement('label'));
      const input = label.appendChild(document.createElement('input'));
      input.type = 'radio'; input.name = name; input.value = value;
      input.checked = chosen(entry, name) === value;
      input.addEventListener('change', () => { answer(entry, name, value); });
      label.append(' ' + said);
    }
  }
  $('back').disabled = state.at === 0;
  $('next').disabled = state.at === state.order.length - 1;
}
function chosen(entry, name) {
  const there = state.answers[entry.pair + '|' + name];
  if (there === undefined) return undefined;
  return there === null ? 'none' : there === entry.sides[0] ? 'left' : 'right';
}
function answer(entry, name, value) {
  const side = value === 'left' ? 0 : 1;
  state.answers[entry.pair + '|' + name] = value === 'none' ? null : entry.sides[side];
  keep();
  count();
}
function hear(side) {
  $('left').muted = side !== 'left';
  $('right').muted = side !== 'right';
  $('hear').textContent = side === 'left' ? 'Hear the right one' : 'Hear the left one';
}
$('hear').addEventListener('click', () => hear($('left').muted ? 'left' : 'right'));
$('play').addEventListener('click', () => {
  for (const video of [$('left'), $('right')]) { video.currentTime = 0; video.play(); }
});
$('back').addEventListener('click', () => { state.at--; keep(); show(); });
$('next').addEventListener('click', () => { state.at++; keep(); show(); });
$('save').addEventListener('click', () => {
  const sides = Object.fromEntries(state.order.map(e => [e.pair, e.sides[0]]));
  const answers = Object.entries(state.answers).map(([key, value]) => {
    const [pair, question] = key.split('|');
    return {pair, question, chosen: value, left: sides[pair]};
  });
  const text = JSON.stringify({format: data.format, study: data.study, rater: state.rater,
    saved: new Date().toISOString(), answers}, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = 'answers-' + state.rater + '.json';
  link.click();
});
$('questions').addEventListener('submit', event => event.preventDefault());
keep();
show();
"""
