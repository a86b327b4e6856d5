/* circuitsvis, https://github.com/TransformerLensOrg/CircuitsVis, MIT licence; with React (MIT) and TensorFlow.js
   (Apache-2.0). See THIRD_PARTY_NOTICES.md of the Python package vlm_neurons. */
(async () => {
  if (window.CircuitsVis || window.vnUnpacking || typeof DecompressionStream === "undefined") return;
  window.vnUnpacking = true;
  const bytes = Uint8Array.from(atob("PACKED"), (c) => c.charCodeAt(0));
  const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
  script.remove();
  document.dispatchEvent(new Event("vn-circuitsvis"));
})();
