"""How a page looks, and the little that moves on it."""

from __future__ import annotations

STYLE = """
:root { --ink:#1d2430; --soft:#667085; --paper:#fff; --line:#e4e7ec; --band:#f7f8fa; --publish:#2f6fde; --read:#12906b;
  --bad:#d92d20; --bad-paper:#fef3f2; --ok:#067647; --ok-paper:#ecfdf3; --open:#b54708; --open-paper:#fffaeb }
@media (prefers-color-scheme: dark) { :root { --ink:#e6e9ef; --soft:#98a2b3; --paper:#12151b; --line:#2b313c;
  --band:#181c24; --publish:#5b8ff0; --read:#32b58c; --bad:#f97066; --bad-paper:#2a1614; --ok:#47cd89; --ok-paper:#0f2419;
  --open:#fdb022; --open-paper:#2a200e } }
* { box-sizing:border-box }
body { margin:0; padding:24px 28px; background:var(--paper); color:var(--ink);
  font:15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
header { border-left:5px solid var(--edge); background:var(--back); padding:14px 20px 12px; border-radius:6px }
header.violated { --edge:var(--bad); --back:var(--bad-paper) }
header.ok { --edge:var(--ok); --back:var(--ok-paper) }
header.unknown { --edge:var(--open); --back:var(--open-paper) }
.rule { margin:0; color:var(--edge); font-size:14px } .rule b { letter-spacing:.06em }
.rule span { color:var(--soft); margin-left:.8em }
h1 { font-size:19px; font-weight:600; line-height:1.4; margin:4px 0 8px; overflow-wrap:anywhere }
.facts { margin:0; color:var(--soft); font-size:13px } .facts span { margin-right:1.4em; white-space:nowrap }
.named { margin:16px 0 4px; padding:0; list-style:none; counter-reset:n; font-size:14px }
.named li { counter-increment:n; margin:5px 0; padding-left:30px; position:relative }
.named li::before { content:counter(n); position:absolute; left:0; top:1px; width:20px; height:20px; border-radius:50%;
  background:var(--bad); color:var(--paper); font:700 12px/20px system-ui, sans-serif; text-align:center }
.named span { color:var(--soft); font-variant-numeric:tabular-nums } code, pre { font-family:ui-monospace, "DejaVu Sans Mono", monospace; font-size:12.5px }
.named a { color:inherit; text-decoration:none } .named a:hover { text-decoration:underline }
.named code { overflow-wrap:anywhere }
.controls { display:flex; flex-wrap:wrap; gap:8px 18px; align-items:center; margin:18px 0 8px; font-size:13px; color:var(--soft) }
.key { display:inline-flex; align-items:center; gap:6px } .key i { width:26px; height:14px; border-radius:3px; background:var(--hue) }
.buttons { margin-left:auto; display:flex; gap:6px }
button { font:inherit; color:var(--ink); background:var(--band); border:1px solid var(--line); border-radius:5px; padding:2px 11px; cursor:pointer }
button:hover { border-color:var(--soft) }
.drawing { --zoom:1; display:flex; border:1px solid var(--line); border-radius:6px; overflow:hidden }
.labels { flex:none; border-right:1px solid var(--line); background:var(--band); font-size:13px; font-weight:600; z-index:2 }
.labels .lane { padding:0 14px; line-height:44px; white-space:nowrap }
.scroll { overflow-x:auto; flex:1 } .lanes { position:relative; min-width:100%;
  width:calc((var(--o) * var(--step) * var(--zoom) + 60) * 1px) }
.axis { height:34px; border-bottom:1px solid var(--line) } .lane { position:relative; height:44px; border-bottom:1px solid var(--line) }
.lane:last-child { border-bottom:0 }
.op, .guide, .gap { position:absolute; left:calc((var(--o) * var(--step) * var(--zoom) + 24) * 1px) }
.op { top:9px; height:26px; min-width:7px; width:calc(var(--ow) * var(--step) * var(--zoom) * 1px); border-radius:4px;
  background:var(--hue); color:#fff; font-size:12px; line-height:26px; text-align:center; opacity:.62; font-variant-numeric:tabular-nums }
.op span { display:block; overflow:hidden; white-space:nowrap; padding:0 2px } .op:hover { opacity:1 }
.publish { --hue:var(--publish) } .read { --hue:var(--read) }
.op.marked { opacity:1; outline:2px solid var(--bad); outline-offset:2px; z-index:1 }
.op b { position:absolute; left:-11px; top:-11px; width:19px; height:19px; border-radius:50%; background:var(--bad); color:var(--paper);
  font:700 11px/19px system-ui, sans-serif; text-align:center; z-index:2;
  scroll-margin:0 200px }
.op.pending, .key .pending { background:linear-gradient(90deg, var(--hue), transparent) } .op.pending { border-radius:4px 0 0 4px; text-align:left }
.op.pending.marked { outline:0; box-shadow:-2px 0 0 2px var(--bad) } .op.pending span { padding-left:8px }
.op.refused, .key .refused { background:repeating-linear-gradient(135deg, var(--hue) 0 3px, transparent 3px 7px) }
.op.wrong { background:repeating-linear-gradient(135deg, var(--bad) 0 6px, #8f1d14 6px 12px) }
.guide { top:0; bottom:0; width:0; border-left:1px dashed var(--bad); opacity:.75 }
.guide span { position:absolute; top:1px; left:4px; font-size:11px; color:var(--bad); white-space:nowrap; font-variant-numeric:tabular-nums }
.guide.began span { left:auto; right:4px } .guide.even span { top:16px }
.gap { top:34px; bottom:0; width:calc(2 * var(--step) * var(--zoom) * 1px); background:repeating-linear-gradient(90deg, var(--line) 0 2px, transparent 2px 6px) }
.gap span { position:absolute; top:-30px; left:0; font-size:11px; color:var(--soft); white-space:nowrap }
.to-scale .op, .to-scale .guide { left:calc((var(--t) * var(--zoom) + 24) * 1px) }
.to-scale .op { width:calc(var(--tw) * var(--zoom) * 1px); min-width:2px }
.to-scale .lanes { width:calc((var(--t) * var(--zoom) + 60) * 1px) } .to-scale .gap { display:none }
details { margin-top:18px } summary { cursor:pointer; color:var(--soft) } pre { overflow-x:auto }
"""

SCRIPT = """
(function () {
  var drawing = document.querySelector('.drawing');
  if (!drawing) { return; }
  var scroll = drawing.querySelector('.scroll'), zoom = 1;
  function home() {
    var marked = Array.prototype.slice.call(drawing.querySelectorAll('.op.marked'));
    if (!marked.length) { return; }
    set(1);
    var first = Math.min.apply(null, marked.map(function (op) { return op.offsetLeft; }));
    var last = Math.max.apply(null, marked.map(function (op) { return op.offsetLeft + Math.min(op.offsetWidth, 80); }));
    var room = scroll.clientWidth - 200, fitting = Math.min(1, room / (last - first));
    if (fitting > 0.15) {
      set(fitting);
      scroll.scrollLeft = (first + last) / 2 * fitting - scroll.clientWidth / 2;
    } else {
      scroll.scrollLeft = last - room;
    }
  }
  function set(to) {
    zoom = to;
    drawing.style.setProperty('--zoom', zoom);
  }
  function scale(by, at) {
    var middle = at === undefined ? scroll.clientWidth / 2 : at;
    var point = (scroll.scrollLeft + middle) / zoom;
    set(Math.min(60, Math.max(0.05, zoom * by)));
    scroll.scrollLeft = point * zoom - middle;
  }
  document.addEventListener('click', function (event) {
    var button = event.target.closest('button');
    if (!button) { return; }
    if (button.dataset.zoom) { scale(Number(button.dataset.zoom)); return; }
    if ('scale' in button.dataset) {
      button.textContent = drawing.classList.toggle('to-scale') ? 'in equal steps' : 'to scale';
    }
    home();
  });
  scroll.addEventListener('wheel', function (event) {
    if (!event.ctrlKey) { return; }
    event.preventDefault();
    scale(event.deltaY < 0 ? 1.15 : 0.87, event.clientX - scroll.getBoundingClientRect().left);
  }, { passive: false });
  home();
})();
"""
