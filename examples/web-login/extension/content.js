// Between the page and the extension. The page's word for where it is counts for nothing: the browser tells
// the background script.
"use strict";
const tell = (message) => window.postMessage(message, window.location.origin);

window.addEventListener("message", async (event) => {
  if (event.source !== window || event.origin !== window.location.origin) return;
  if (event.data?.type === "keyward-hello") tell({ type: "keyward-helper" });
  if (event.data?.type === "keyward-login") {
    const answer = await chrome.runtime.sendMessage(event.data.request);
    tell({ type: "keyward-signed", answer });
  }
});
tell({ type: "keyward-helper" });
