// Hands the challenge to the helper through the browser extension, if that is there. Everything works without:
// then the line is given to the helper by hand.
"use strict";
const request = document.getElementById("request");
const answer = document.getElementById("answer");
const state = document.getElementById("state");

window.addEventListener("message", (event) => {
  if (event.source !== window || event.origin !== window.location.origin) return;
  if (event.data?.type === "keyward-helper") {
    state.textContent = "Look at the helper: it shows what is signed, and asks for the PIN.";
    window.postMessage({ type: "keyward-login", request: JSON.parse(request.value) }, window.location.origin);
  }
  if (event.data?.type === "keyward-signed") {
    answer.value = JSON.stringify(event.data.answer);
    state.textContent = event.data.answer.error
      ? event.data.answer.error.message
      : "Signed. Enter the one-time password and log in.";
  }
});
window.postMessage({ type: "keyward-hello" }, window.location.origin);
