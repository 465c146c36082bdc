"""The looks of the sheet: a column of text as wide as a book's, what is known of it beside it; light, dark, on paper.

Colours of reasons tell when an image went: by its address, when it was asked for, when it was looked at, or compared.
"""

STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#22211d;--soft:#6d6a62;--line:#e3dfd5;--link:#2f5d8a;--bar:#9db8d1;
  --field:#f3f0e8;--c-address:#7a6a3a;--c-request:#3f6a8a;--c-gate:#8a4a3a;--c-compared:#5f4f8a;
  color-scheme:light dark}
@media(prefers-color-scheme:dark){
  :root{--paper:#17181a;--card:#1e2023;--ink:#e4e1da;--soft:#9c988e;--line:#34363a;--link:#8fb8e0;--bar:#4d6c8a;
    --field:#26282c;--c-address:#cdbb84;--c-request:#8fbbdc;--c-gate:#e0a090;--c-compared:#b8a8e4}
}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0;background:var(--paper);color:var(--ink);
  font:16px/1.6 Georgia,"Noto Serif","Times New Roman",serif;display:grid;
  grid-template-columns:17rem minmax(0,1fr);overflow-wrap:anywhere}
nav,header,aside,.meta,.tile,.about,table,h1,h2,.chip,.tech,.cut,.left,.skip{font-family:system-ui,
  -apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
a{color:var(--link);text-decoration-thickness:1px;text-underline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:1rem;background:var(--card);padding:.5rem;z-index:2}
nav{position:sticky;top:0;height:100vh;overflow:auto;padding:1.5rem 1rem 2rem 1.25rem;
  border-right:1px solid var(--line);font-size:.8rem;line-height:1.35;scrollbar-width:thin}
nav h2{font-size:.7rem;letter-spacing:.08em;text-transform:uppercase;color:var(--soft);margin:1.4rem 0 .5rem}
nav ol,nav ul{list-style:none;margin:0;padding:0}
nav li a{display:block;padding:.22rem .4rem;border-radius:4px;color:inherit;text-decoration:none}
nav li a:hover,nav li a:focus{background:var(--field)}
nav .n{color:var(--soft);font-variant-numeric:tabular-nums;margin-right:.45em}
nav .one{display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow:hidden}
main{padding:2.2rem clamp(1rem,4vw,3.5rem) 6rem;max-width:84rem;min-width:0}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem;font-weight:650}
h2.part{font-size:1.25rem;margin:3.5rem 0 .3rem;padding-top:1rem;border-top:2px solid var(--ink)}
.lead{color:var(--soft);margin:0 0 1.2rem;max-width:46rem}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.1rem .9rem;margin:0}
dt{color:var(--soft)}
dd{margin:0}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.about{font-size:.85rem;line-height:1.5;background:var(--card);border:1px solid var(--line);border-radius:10px;
  padding:1rem 1.2rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(8rem,1fr));gap:.8rem;margin:1.2rem 0}
.figures div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.7rem .9rem}
.figures b{display:block;font-size:1.45rem;line-height:1.2;font-weight:600;font-variant-numeric:tabular-nums}
.figures span{color:var(--soft);font-size:.8rem}
.tables{columns:2 24rem;column-gap:2.5rem;margin-top:1.6rem}
table.bars{width:100%;border-collapse:collapse;font-size:.8rem;line-height:1.35;break-inside:avoid;
  margin-bottom:1.6rem}
table caption{text-align:left;font-weight:600;font-size:.9rem;padding-bottom:.4rem}
.bars th{font-weight:400;text-align:left;padding:.16rem .7rem .16rem 0;width:40%}
.bars .bar{width:40%}
.bars td{padding:.16rem 0}
.bars .num{text-align:right;padding-left:.7rem;font-variant-numeric:tabular-nums;white-space:nowrap}
.bars .note{text-align:right;color:var(--soft);padding-left:.6rem;white-space:nowrap;
  font-variant-numeric:tabular-nums}
.bar span{display:block;height:.7rem;min-width:1px;background:var(--bar);border-radius:2px}
article{display:grid;grid-template-columns:minmax(0,44rem) minmax(16rem,1fr);gap:1.2rem 2.4rem;
  background:var(--card);border:1px solid var(--line);border-radius:12px;
  padding:1.6rem clamp(1rem,2.4vw,2rem) 1.8rem;margin:1.4rem 0;overflow:clip}
article>header{grid-column:1/-1;border-bottom:1px solid var(--line);padding-bottom:.7rem}
article h3{margin:0;font:600 1.05rem/1.35 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
article h3 .n{color:var(--soft);font-weight:400;margin-right:.5em}
article>header p{margin:.15rem 0 0;font-size:.8rem;color:var(--soft)}
.text{min-width:0}
.text>*{unicode-bidi:isolate;max-width:100%}
.text p,.text li,.text dd,.text blockquote{white-space:pre-line}
.text>:first-child{margin-top:0}
.text p{margin:.75rem 0}
.text ul{margin:.6rem 0;padding-inline-start:1.3rem}
.text dl{display:block;margin:.6rem 0}
.text dt{color:inherit;font-weight:600;margin-top:.4rem}
.text dd{margin-inline-start:1.3rem}
.text h4,.text h5,.text h6{line-height:1.3;margin:1.5rem 0 .5rem;font-weight:600}
.text .h1{font-size:1.5rem;margin-top:.2rem}
.text .h2{font-size:1.25rem}
.text .h3{font-size:1.1rem}
.text .h4,.text .h5,.text .h6{font-size:1rem}
.text .d2{margin-inline-start:1.2rem}
.text .d3{margin-inline-start:2.4rem}
.text .d4{margin-inline-start:3.6rem}
.text blockquote{margin:.9rem 0;padding-inline-start:1rem;border-inline-start:3px solid var(--line);color:var(--soft)}
.text pre{background:var(--field);padding:.7rem .9rem;border-radius:6px;overflow:auto;max-height:26rem;
  font-size:.78rem;line-height:1.45;
  font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap}
.text .caption{font-size:.9rem;color:var(--soft)}
figure{margin:1.1rem 0;padding:.8rem;background:var(--field);border-radius:8px;width:fit-content;max-width:100%}
figure img,.tile img{display:block;max-width:100%;height:auto;
  background:repeating-conic-gradient(#8882 0 25%,#0000 0 50%) 0/16px 16px}
figcaption{font-size:.85rem;line-height:1.45;margin-top:.5rem;max-width:38rem}
.text figcaption p{margin:.15rem 0}
.key{font:500 .72rem system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;color:var(--soft);
  margin-inline-end:.3em}
.tech{color:var(--soft);font-size:.72rem}
.cut,.left{color:var(--c-gate);font-size:.85em}
.left{display:block;border:1px dashed;border-radius:6px;padding:.5rem .8rem;margin:1rem 0}
aside{font-size:.76rem;line-height:1.45;border-left:1px solid var(--line);padding-left:1.2rem;min-width:0}
aside h4{font-size:.68rem;letter-spacing:.08em;text-transform:uppercase;color:var(--soft);margin:1.1rem 0 .3rem}
aside section:first-child h4{margin-top:0}
aside dl{grid-template-columns:5.2rem minmax(0,1fr)}
aside table{border-collapse:collapse;width:100%}
aside td,aside th{padding:.04rem 0;text-align:left;font-weight:400;color:var(--soft)}
aside td{text-align:right;color:inherit;font-variant-numeric:tabular-nums}
.chip{display:inline-block;font-size:.72rem;line-height:1.4;padding:.05rem .5rem;border-radius:99px;
  border:1px solid;white-space:nowrap;color:var(--soft)}
.chip.address{color:var(--c-address)}
.chip.request{color:var(--c-request)}
.chip.gate{color:var(--c-gate)}
.chip.compared{color:var(--c-compared)}
.reason{margin:1.8rem 0 .6rem;
  font:400 .85rem/1.4 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));align-items:start;gap:.9rem;
  list-style:none;margin:0;padding:0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem;font-size:.76rem;
  line-height:1.45;overflow:clip;unicode-bidi:isolate}
.tile p{margin:.3rem 0 0}
.tile img{max-height:13rem;width:auto;object-fit:contain}
.empty{display:grid;place-items:center;min-height:3rem;border:1px dashed var(--line);border-radius:6px;
  color:var(--soft);background:var(--field)}
@media(max-width:70rem){
  article{grid-template-columns:minmax(0,1fr)}
  aside{border-left:0;border-top:1px solid var(--line);padding:.8rem 0 0;columns:2 16rem;column-gap:2rem}
  aside section{break-inside:avoid}
  aside h4{margin-top:.6rem}
}
@media(max-width:52rem){
  body{display:block}
  nav{position:static;height:auto;max-height:14rem;border:0;border-bottom:1px solid var(--line)}
}
@media print{
  :root{--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--field:#f4f4f4;--link:#000}
  body{display:block;font-size:10.5pt}
  nav,.skip{display:none}
  main{padding:0;max-width:none}
  article{border:0;border-top:1px solid #000;border-radius:0;padding:1rem 0;break-inside:auto}
  figure,.tile,tr{break-inside:avoid}
  h3,h4,h5,h6{break-after:avoid}
  .text pre{max-height:none}
}
@media(prefers-reduced-motion:reduce){
  html{scroll-behavior:auto}
}
"""
